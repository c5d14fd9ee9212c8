//! Standard output, and no panic when a reader such as `head` has had enough.

use std::fmt::Arguments;
use std::io::Write;

/// As the standard library's, but without its panic.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::out::print(format_args!($($text)*)) };
}

/// As the standard library's, but without its panic.
macro_rules! println {
    ($($text:tt)*) => { $crate::cli::out::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints on standard output. Ends the program when that is closed, with success when its reader has gone: it has what it wanted.
pub fn print(text: Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    if let Err(e) = out.write_fmt(text).and_then(|()| out.flush()) {
        let status = if e.kind() == std::io::ErrorKind::BrokenPipe { 0 } else { 1 };
        std::process::exit(status);
    }
}
