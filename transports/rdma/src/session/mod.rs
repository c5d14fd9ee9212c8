//! The target's side of one queue pair.
//!
//! Owns the slots that number its commands, everything that its work requests let the device reach, and the order in which
//! they were posted. It must never know what a command does.
//!
//! Life of a command: a capsule comes ([`Session::command`]) and takes a slot; for [`Payload::Transport`] the caller may
//! [`Session::pull`] the data (RDMA READs) and gets [`Event::Data`]; [`Session::reply`] answers (RDMA WRITEs and a SEND) and
//! frees the slot. What the SEND and the WRITEs before it read stays here until a completion covers it.
//!
//! Completions: the requests of one send queue complete in the order in which they were posted, so a completion of one says
//! that all before it are done. RDMA READs and the last request of each batch are signaled; the responses of a batch that lie
//! before it are not, and cost no completion. On iWARP, that holds of SENDs and RDMA WRITEs among themselves, and an RDMA READ tells of
//! itself alone ([`Config::iwarp`]).

mod sends;
mod slots;
mod table;

use crate::memory::{Keys, Memory};
use crate::place::{Payload, Remote, place};
use crate::receive::Capsule;
use crate::work::{Batch, Op, WcStatus};
use caisson_block::{BufList, Completions};
use caisson_wire::{Cqe, Sqe};
use sends::{Held, SendQueue};
use slots::{Slots, Transfer};
use std::collections::VecDeque;
use table::{Act, Happens};

/// What was agreed on with the host, and what the device can do.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Commands that the host may have on their way (HSQSIZE + 1).
    pub depth: u16,
    /// Responses that the host has room for (HRQSIZE).
    pub responses: u16,
    /// Work requests that the send queue holds.
    pub send_wrs: u32,
    /// Entries in the list of a SEND or an RDMA WRITE.
    pub send_sges: u32,
    /// Entries in the list of an RDMA READ.
    pub read_sges: u32,
    /// Whether the device sends 16 bytes inline.
    pub inline: bool,
    /// Whether the device is iWARP. Then a SEND with invalidate is not inline, which soft-iWARP refuses; each RDMA WRITE is signaled,
    /// since a completion says there that TCP has the data, and soft-iWARP sends what is not signaled from our memory even later, when
    /// it may hold other data; and RDMA READs may complete behind what was posted after them.
    pub iwarp: bool,
    /// Whether the device can send with invalidate. Where it cannot, hosts do it themselves.
    pub invalidate: bool,
}

/// What came of a capsule or a completion.
#[derive(Debug)]
pub enum Event {
    /// A command. The slot is the caller's until [`Session::reply`].
    Command {
        /// Its number here, dense from 0.
        slot: u32,
        /// The command as sent.
        sqe: Sqe,
        /// Where its data is.
        payload: Payload,
    },
    /// All that [`Session::pull`] asked for.
    Data {
        /// The command.
        slot: u32,
        /// The data, in order.
        data: BufList,
    },
}

/// Why a connection cannot go on. The queue pair is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// A message that is no command capsule.
    #[error("a message of {len} bytes, shorter than a command")]
    Short {
        /// Bytes.
        len: u32,
    },
    /// More commands than the queue has entries.
    #[error("the host has more than the {depth} commands on their way that it asked for")]
    TooMany {
        /// Entries.
        depth: u16,
    },
    /// A work request failed.
    #[error("{what}: {status}")]
    Failed {
        /// Which kind.
        what: &'static str,
        /// How.
        status: WcStatus,
    },
    /// The device refused a work request, with this errno.
    #[error("the device refuses a work request (errno {errno})")]
    Refused {
        /// The errno.
        errno: i32,
    },
    /// The device reported what was never posted.
    #[error("the device completed a work request that was not posted")]
    Stray,
}

/// What the thread lends a session for the length of one call.
pub struct Env<'a> {
    /// The registered regions of the session's device.
    pub keys: &'a dyn Keys,
    /// The buffers for transfers.
    pub memory: &'a Memory,
    /// Where lists come from and go to.
    pub spare: &'a mut Completions,
}

/// A response that waits for room.
struct Answer {
    cqe: Cqe,
    data: BufList,
    remote: Remote,
}

/// One queue pair.
pub struct Session {
    config: Config,
    slots: Slots,
    sends: SendQueue,
    /// To be posted with the next batch.
    batch: Batch,
    answers: VecDeque<Answer>,
    /// Slots whose pulls wait for buffers or room.
    pulls: VecDeque<u32>,
    /// Bytes of the answers that the device has not let go of yet.
    unsent: usize,
    fatal: Option<Fatal>,
    closed: bool,
}

impl Session {
    /// A queue pair that is about to be connected.
    pub fn new(config: Config) -> Session {
        Session {
            config,
            slots: Slots::new(u32::from(config.depth)),
            sends: SendQueue::default(),
            batch: Batch::default(),
            answers: VecDeque::new(),
            pulls: VecDeque::new(),
            unsent: 0,
            fatal: None,
            closed: false,
        }
    }

    /// A capsule came. The list for its data, where some came with it, is from `spare`.
    ///
    /// # Errors
    /// Once the host has more commands on their way than it said. The connection is to be closed.
    pub fn command(&mut self, capsule: Capsule, spare: &mut Completions) -> Result<Option<Event>, Fatal> {
        if self.closed || self.fatal.is_some() {
            return Ok(None);
        }
        let Capsule { sqe, inside } = capsule;
        let (payload, remote) = place(&sqe, inside, spare);
        let Some(slot) = self.slots.admit(remote) else {
            return Err(self.fail(Fatal::TooMany { depth: self.config.depth }));
        };
        Ok(Some(Event::Command { slot, sqe, payload }))
    }

    /// Fetches the data of the command in `slot`, `len` bytes of it; [`Event::Data`] follows. `false` when the command's
    /// descriptor has no such data, or it was asked for already.
    pub fn pull(&mut self, slot: u32, len: u32, env: &mut Env<'_>) -> bool {
        let fits = self.slots.remote(slot).is_some_and(|r| len > 0 && len <= r.length);
        if self.closed || !fits || self.slots.step(slot, Happens::Pull) != Act::Fetch {
            return false;
        }
        self.slots.want(slot, len);
        self.pulls.push_back(slot);
        self.advance(env);
        true
    }

    /// Answers the command in `slot` and frees it, with `data` for the host where there is some (at most as long as its
    /// descriptor).
    pub fn reply(&mut self, slot: u32, cqe: Cqe, data: BufList, env: &mut Env<'_>) {
        match self.slots.step(slot, Happens::Reply) {
            Act::Answer => {
                let remote = self.slots.release(slot);
                self.answer(cqe, data, remote, env);
            }
            // The RDMA READs that are out still write to its buffers, and the host may not take its memory back before
            // they are done: the answer waits for them.
            Act::Defer => self.slots.defer(slot, cqe),
            act => debug_assert!(self.closed, "a reply to slot {slot}, which is {act:?}"),
        }
    }

    fn answer(&mut self, cqe: Cqe, mut data: BufList, remote: Remote, env: &mut Env<'_>) {
        if self.closed {
            env.spare.recycle(data);
            return;
        }
        debug_assert!(data.len() <= remote.length as usize, "more data than the descriptor has room for");
        self.unsent += data.len();
        if !self.answers.is_empty() {
            self.answers.push_back(Answer { cqe, data, remote });
            return self.advance(env);
        }
        // Where none waits, there mostly is room.
        if !self.sends.respond(&self.config, cqe, &mut data, &remote, env, &mut self.batch) {
            self.answers.push_back(Answer { cqe, data, remote });
        }
        self.fetch(env);
    }

    /// Makes work requests of what waits, as far as there is room. To be called again when buffers have come free.
    pub fn advance(&mut self, env: &mut Env<'_>) {
        while let Some(answer) = self.answers.front_mut() {
            let made = self.sends.respond(
                &self.config,
                answer.cqe,
                &mut answer.data,
                &answer.remote,
                env,
                &mut self.batch,
            );
            if !made {
                break;
            }
            self.answers.pop_front();
        }
        self.fetch(env);
    }

    /// Makes RDMA READs for the pulls that wait, as far as there is room.
    fn fetch(&mut self, env: &mut Env<'_>) {
        while let Some(&slot) = self.pulls.front() {
            // One that was answered meanwhile is not fetched.
            if let Some(Transfer { remote, want }) = self.slots.transfer(slot) {
                let made = self.sends.fetch(&self.config, slot, want, &remote, env, &mut self.batch);
                let Some(reads) = made else { break };
                self.slots.fetching(slot, reads);
            }
            self.pulls.pop_front();
        }
    }

    /// Whether something waits for buffers: call [`Session::advance`] when some have come free.
    #[inline]
    pub fn waiting(&self) -> bool {
        !self.pulls.is_empty() || !self.answers.is_empty()
    }

    /// What is to be posted, in order; empty when nothing is. After posting, [`Session::posted`].
    #[inline]
    pub fn batch(&mut self) -> &Batch {
        if let Some(last) = self.batch.wrs.last_mut() {
            last.signaled = true;
        }
        if self.config.iwarp
            && let Some(send) = self.batch.wrs.iter_mut().rfind(|wr| !matches!(wr.op, Op::Read { .. }))
        {
            // The RDMA READ that ends the batch will not tell of it.
            send.signaled = true;
        }
        &self.batch
    }

    /// The batch was posted; but for its last `refused` requests, for which the device gave `errno`.
    pub fn posted(&mut self, refused: usize, errno: i32, env: &mut Env<'_>) {
        self.batch.clear();
        if refused > 0 {
            self.sends.take_back(refused, env.spare);
            self.fail(Fatal::Refused { errno });
        }
    }

    /// The request `id` is over, and with it all that were posted before it.
    pub fn completed(&mut self, id: u64, status: WcStatus, env: &mut Env<'_>, out: &mut Vec<Event>) {
        if !self.sends.knows(id) {
            self.fail(Fatal::Stray);
            return;
        }
        while let Some((held, itself)) = self.sends.over(id, !self.config.iwarp) {
            let ok = !itself || status == WcStatus::Success;
            if !ok && status != WcStatus::Flushed {
                self.fail(Fatal::Failed { what: held.what(), status });
            } else if !ok && !self.closed {
                // The host, or the device, has ended the queue pair; the connection manager will say so, too.
                self.fail(Fatal::Failed { what: held.what(), status });
            }
            self.let_go(held, ok, env, out);
        }
        if !self.closed {
            self.advance(env);
        }
    }

    /// The device has let go of `held`.
    fn let_go(&mut self, held: Held, ok: bool, env: &mut Env<'_>, out: &mut Vec<Event>) {
        match held {
            Held::Write | Held::Over => {}
            Held::Send { data, bytes } => {
                self.unsent -= bytes;
                env.spare.recycle(data);
            }
            Held::Read { slot, part } => match self.slots.arrived(slot, part, ok) {
                Act::GiveData => {
                    let data = self.slots.collect(slot);
                    if self.closed || self.fatal.is_some() {
                        env.spare.recycle(data);
                    } else {
                        out.push(Event::Data { slot, data });
                    }
                }
                Act::AnswerDeferred => {
                    let (cqe, data) = self.slots.deferred(slot);
                    env.spare.recycle(data);
                    let remote = self.slots.release(slot);
                    self.answer(cqe, BufList::new(), remote, env);
                }
                _ => {}
            },
        }
    }

    /// The fatal error met, if any: the connection is to be closed.
    #[inline]
    pub fn fatal(&self) -> Option<&Fatal> {
        self.fatal.as_ref()
    }

    /// Notes a fatal error that the caller met for it; the first counts. Only that work was flushed is never the cause: where sends and
    /// receives have queues of their own, it may be seen before what it follows from.
    pub fn fail(&mut self, fatal: Fatal) -> Fatal {
        let flushed = |f: &Fatal| matches!(f, Fatal::Failed { status: WcStatus::Flushed, .. });
        match &mut self.fatal {
            Some(first) if !flushed(first) || flushed(&fatal) => *first,
            first => *first.insert(fatal),
        }
    }

    /// Takes nothing more and makes nothing more. What the device has is kept until it is flushed.
    pub fn close(&mut self, spare: &mut Completions) {
        self.closed = true;
        let unposted = self.batch.wrs.len();
        self.batch.clear();
        self.sends.take_back(unposted, spare);
        self.pulls.clear();
        for answer in self.answers.drain(..) {
            spare.recycle(answer.data);
        }
    }

    /// Whether the device has nothing of ours any more.
    #[inline]
    pub fn drained(&self) -> bool {
        self.sends.is_empty()
    }

    /// Whether everything that was answered is also sent and acknowledged.
    #[inline]
    pub fn idle(&self) -> bool {
        self.sends.is_empty() && self.answers.is_empty() && self.batch.is_empty()
    }

    /// Bytes of data for the host that answers hold, until the device has let go of them.
    #[inline]
    pub fn unsent(&self) -> usize {
        self.unsent
    }

    /// Whether something waits for the device to complete what it has: data that is fetched, or an answer without room. Where not,
    /// completions only bring buffers home, and may be looked at later.
    #[inline]
    pub fn awaits(&self) -> bool {
        self.sends.reads() > 0 || self.waiting()
    }

    /// Commands in hand.
    pub fn in_hand(&self) -> u32 {
        self.slots.used()
    }

    /// Work requests that the device has.
    pub fn on_their_way(&self) -> usize {
        self.sends.len()
    }
}
