//! The states of a connection and of a slot, and what each event means in them, as tables (TCP 1.1, 3.3.2 and 3.5).

use caisson_wire::pdu::kind;

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing but ICReq (or a termination) may come.
    AwaitIcReq,
    /// Commands and data.
    Ready,
    /// A fatal error was met; nothing is read.
    Closing,
}

/// What to do with a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Answer ICReq.
    Handshake,
    /// Take a command capsule.
    Command,
    /// Take H2CData.
    Data,
    /// The host terminates.
    Terminated,
    /// PDU Sequence Error.
    OutOfSequence,
    /// Invalid PDU Header Field at PDU-Type: a type that is reserved, or that only a controller sends.
    WrongType,
    /// Not looked at.
    Drop,
}

/// What `pdu_kind` means in `state`.
#[inline]
pub fn step(state: State, pdu_kind: u8) -> Step {
    match (state, pdu_kind) {
        (State::Ready, kind::CAPSULE_CMD) => Step::Command,
        (State::Ready, kind::H2C_DATA) => Step::Data,
        (State::AwaitIcReq, kind::IC_REQ) => Step::Handshake,
        (State::Closing, _) => Step::Drop,
        (_, kind::H2C_TERM_REQ) => Step::Terminated,
        (_, kind::IC_REQ | kind::CAPSULE_CMD | kind::H2C_DATA) => Step::OutOfSequence,
        _ => Step::WrongType,
    }
}

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nothing.
    Free,
    /// The caller works on the command.
    Held,
    /// Its data is being fetched.
    Pulling,
    /// It was answered while R2Ts were out: the reply waits for their data, which is dropped.
    Draining,
}

/// What can happen to a slot that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happens {
    /// The caller asks for its data.
    Pull,
    /// The caller answers it, no R2T being out.
    Reply,
    /// The caller answers it while R2Ts are out.
    ReplyEarly,
    /// The data of all R2Ts that were out has come, and it is all that was wanted.
    AllIn,
    /// The data of all R2Ts that were out has come, some of it damaged.
    Damaged,
    /// The data of all R2Ts that were out has come, and more is wanted.
    SomeIn,
    /// The connection is being torn down, no R2T being out.
    Forget,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Send R2Ts.
    Ask,
    /// Send the answer and free the slot.
    Answer,
    /// Keep the answer.
    Defer,
    /// Give the caller the data.
    GiveData,
    /// Tell the caller that the data is damaged.
    GiveDamage,
    /// Send the answer that was kept and free the slot.
    AnswerDeferred,
    /// Free the slot.
    Release,
    /// The caller may not do this, or it cannot happen: nothing.
    Refuse,
}

/// What happens next to a slot, and the state it is in then.
#[inline]
pub fn slot_step(state: Use, happens: Happens) -> (Use, Act) {
    match (state, happens) {
        (Use::Held, Happens::Pull) | (Use::Pulling, Happens::SomeIn) => (Use::Pulling, Act::Ask),
        (Use::Held | Use::Pulling, Happens::Reply) => (Use::Free, Act::Answer),
        (Use::Pulling, Happens::ReplyEarly) => (Use::Draining, Act::Defer),
        (Use::Pulling, Happens::AllIn) => (Use::Held, Act::GiveData),
        (Use::Pulling, Happens::Damaged) => (Use::Held, Act::GiveDamage),
        (Use::Draining, Happens::AllIn | Happens::Damaged | Happens::SomeIn) => {
            (Use::Free, Act::AnswerDeferred)
        }
        (Use::Held | Use::Pulling, Happens::Forget) => (Use::Free, Act::Release),
        (state, _) => (state, Act::Refuse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each state with each of the 256 types, against the table written out.
    #[test]
    fn every_state_and_type() {
        use Step::*;
        let rows: [(State, [Step; 10], Step); 3] = [
            (
                State::AwaitIcReq,
                [
                    Handshake,
                    WrongType,
                    Terminated,
                    WrongType,
                    OutOfSequence,
                    WrongType,
                    OutOfSequence,
                    WrongType,
                    WrongType,
                    WrongType,
                ],
                WrongType,
            ),
            (
                State::Ready,
                [
                    OutOfSequence,
                    WrongType,
                    Terminated,
                    WrongType,
                    Command,
                    WrongType,
                    Data,
                    WrongType,
                    WrongType,
                    WrongType,
                ],
                WrongType,
            ),
            (State::Closing, [Drop; 10], Drop),
        ];
        for (state, known, rest) in rows {
            for k in 0..=255u8 {
                let want = known.get(usize::from(k)).copied().unwrap_or(rest);
                assert_eq!(step(state, k), want, "{state:?} and type {k:#x}");
            }
        }
    }

    /// Each state of a slot with each event, against the table written out.
    #[test]
    fn every_slot_state_and_event() {
        use Act::*;
        use Use::*;
        let events = [
            Happens::Pull,
            Happens::Reply,
            Happens::ReplyEarly,
            Happens::AllIn,
            Happens::Damaged,
            Happens::SomeIn,
            Happens::Forget,
        ];
        let rows: [(Use, [(Use, Act); 7]); 4] = [
            (Free, [(Free, Refuse); 7]),
            (
                Held,
                [
                    (Pulling, Ask),
                    (Free, Answer),
                    (Held, Refuse),
                    (Held, Refuse),
                    (Held, Refuse),
                    (Held, Refuse),
                    (Free, Release),
                ],
            ),
            (
                Pulling,
                [
                    (Pulling, Refuse),
                    (Free, Answer),
                    (Draining, Defer),
                    (Held, GiveData),
                    (Held, GiveDamage),
                    (Pulling, Ask),
                    (Free, Release),
                ],
            ),
            (
                Draining,
                [
                    (Draining, Refuse),
                    (Draining, Refuse),
                    (Draining, Refuse),
                    (Free, AnswerDeferred),
                    (Free, AnswerDeferred),
                    (Free, AnswerDeferred),
                    (Draining, Refuse),
                ],
            ),
        ];
        for (state, row) in rows {
            for (event, want) in events.into_iter().zip(row) {
                assert_eq!(slot_step(state, event), want, "{state:?} and {event:?}");
            }
        }
    }
}
