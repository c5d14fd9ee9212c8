//! Rows of commands and what each must come to, judged one after another on one queue.

use caisson_initiator::{Command, Completion, Queue};
use caisson_wire::Status;

/// A judgement on a completion; the error says what is wrong with it.
pub type Check = Box<dyn Fn(&Completion) -> Result<(), String>>;

/// What a command must come to.
pub enum Expect {
    /// Success.
    Success,
    /// This type and code; Do Not Retry must be as it is here.
    Is(Status),
    /// One of these types and codes: the specification leaves the choice.
    OneOf(&'static [Status]),
    /// Success, and data that passes.
    That(Check),
}

/// A row of a table.
pub struct Row {
    /// What it is about.
    pub name: String,
    /// What is sent.
    pub command: Command,
    /// What must come back.
    pub expect: Expect,
}

impl Row {
    /// A row that must end with `status`, Do Not Retry set as there.
    pub fn is(name: impl Into<String>, command: Command, status: Status) -> Row {
        Row { name: name.into(), command, expect: Expect::Is(status) }
    }

    /// A row that must succeed.
    pub fn ok(name: impl Into<String>, command: Command) -> Row {
        Row { name: name.into(), command, expect: Expect::Success }
    }

    /// A row whose status is the target's choice among `list`.
    pub fn one_of(name: impl Into<String>, command: Command, list: &'static [Status]) -> Row {
        Row { name: name.into(), command, expect: Expect::OneOf(list) }
    }

    /// A row that must succeed with data that passes `check`.
    pub fn that(
        name: impl Into<String>,
        command: Command,
        check: impl Fn(&Completion) -> Result<(), String> + 'static,
    ) -> Row {
        Row { name: name.into(), command, expect: Expect::That(Box::new(check)) }
    }
}

impl Expect {
    fn judge(&self, done: &Completion) -> Result<String, String> {
        let status = done.status();
        match self {
            Expect::Success if status.is_success() => Ok("success".into()),
            Expect::Is(want) if status.is(*want) && status.is_dnr() == want.is_dnr() => {
                Ok(status.to_string())
            }
            Expect::OneOf(list) if list.iter().any(|s| status.is(*s)) => Ok(status.to_string()),
            Expect::That(check) if status.is_success() => {
                check(done).map(|()| "success, and as it must be".into())
            }
            Expect::Is(want) => Err(format!("{status}, not {want}")),
            Expect::OneOf(list) => Err(format!("{status}, none of {list:?}")),
            Expect::Success | Expect::That(_) => Err(format!("{status}, not success")),
        }
    }
}

/// Sends every row on `queue`, prints what each came to, and fails with all rows that came to something else.
///
/// # Panics
/// When a row fails: that is the test's failure.
pub fn judge(title: &str, queue: &mut Queue, rows: Vec<Row>) {
    let mut failed = Vec::new();
    let total = rows.len();
    println!("{title}");
    for row in rows {
        let verdict = match queue.run(row.command) {
            Ok(done) => row.expect.judge(&done),
            Err(e) => Err(format!("no completion: {e}")),
        };
        match verdict {
            Ok(what) => println!("  ok    {}: {what}", row.name),
            Err(what) => {
                println!("  WRONG {}: {what}", row.name);
                failed.push(format!("{}: {what}", row.name));
            }
        }
    }
    println!("  {} of {total} rows", total - failed.len());
    assert!(failed.is_empty(), "\n{title}\n  {}\n", failed.join("\n  "));
}

/// `Ok` when `true`, otherwise what was expected.
///
/// # Errors
/// The sentence.
pub fn holds(what: bool, sentence: impl Into<String>) -> Result<(), String> {
    if what { Ok(()) } else { Err(sentence.into()) }
}
