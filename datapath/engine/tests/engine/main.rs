//! The pool's tests on real files, one module a subject; each says at its head what it is about.
//!
//! One program, because the pool is generic over what drives it: a program a subject, each would hold a whole pool compiled anew. Nothing
//! here may count or change what belongs to the whole process; a test that does is a program of its own beside this folder.

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod chores;
mod commit;
mod company;
mod copies;
mod counts;
mod damage;
mod epochs;
mod erase;
mod fixture;
mod full;
mod grow;
mod mapkeys;
mod misplaced;
mod real_file;
mod rewrap;
mod rot;
mod snapshots;
mod uncorrectable;
mod unread;
