//! Finding rdma-core when it is first needed, so that one program runs with and without it.

use crate::ffi::{Functions, Library};
use libc::c_void;
use std::ffi::CStr;
use std::sync::OnceLock;

/// Why there is no RDMA here, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// A library cannot be loaded.
    #[error(
        "RDMA needs rdma-core, which is not installed ({error}): install it (Debian: apt install rdma-core librdmacm1 \
         ibverbs-providers), and listen again"
    )]
    NoLibrary {
        /// The loader's words.
        error: String,
    },
    /// A library lacks a function.
    #[error("this rdma-core is too old ({error}): version 17 or later is needed")]
    TooOld {
        /// The loader's words.
        error: String,
    },
    /// The kernel has no connection manager for user space, or this process may not use it.
    #[error(
        "the kernel offers no RDMA here (errno {errno} on /dev/infiniband/rdma_cm): load its modules (modprobe rdma_ucm \
         ib_uverbs) and see to a device (`rdma link`)"
    )]
    NoKernel {
        /// The errno.
        errno: i32,
    },
}

/// The names that libraries have had since rdma-core began.
const VERBS: &CStr = c"libibverbs.so.1";
const CM: &CStr = c"librdmacm.so.1";

fn last_error() -> String {
    // SAFETY: dlerror may be called at any time; what it points at is copied before anything else can be called here.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".into();
    }
    // SAFETY: not null, so a string that ends in NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn open(name: &'static CStr) -> Result<*mut c_void, Unavailable> {
    // SAFETY: a name that ends in NUL. Loading runs the library's constructors, which for rdma-core only read its
    // configuration.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() { Err(Unavailable::NoLibrary { error: last_error() }) } else { Ok(handle) }
}

/// rdma-core's functions, loaded once for the process and never unloaded.
///
/// # Errors
/// The libraries are not there, or lack a function.
pub fn functions() -> Result<&'static Functions, Unavailable> {
    // A failure is not kept: what was missing may have been installed.
    static LOADED: OnceLock<Functions> = OnceLock::new();
    if let Some(functions) = LOADED.get() {
        return Ok(functions);
    }
    let (verbs, cm) = (open(VERBS)?, open(CM)?);
    let find = |library, name: &'static CStr| {
        let handle = if library == Library::Verbs { verbs } else { cm };
        // SAFETY: a handle that is open, and a name that ends in NUL.
        let at = unsafe { libc::dlsym(handle, name.as_ptr()) };
        if at.is_null() { Err(Unavailable::TooOld { error: last_error() }) } else { Ok(at) }
    };
    // SAFETY: the names are looked up in the libraries whose headers declare them (tests/layout.rs compiles against these).
    let found = unsafe { Functions::resolve(find)? };
    Ok(LOADED.get_or_init(|| found))
}
