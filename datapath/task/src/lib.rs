//! Asynchronous tasks on data-plane threads, without a runtime.
//!
//! A [`Task`] drives one `async` function on the thread that started it. The function never sees the thread: it asks its
//! [`Port`] for a claim, for buffers, for device operations, for a pause or for news from elsewhere, and goes on with the
//! answer. There are no wakers and no queues of tasks: whatever a task waits for polls it again. A request of a volume
//! and the background work of a pool are both tasks, so the simulator can step through either.

mod claims;
mod pace;
pub mod sync;
mod task;

pub use claims::{Claim, Claims, Range, Standing, Waiter};
pub use pace::Pace;
pub use task::{Io, Port, Task, Ticket};
