//! What each event means in each state of a slot, as a table.

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nothing.
    Free,
    /// The caller works on the command.
    Held,
    /// Its data is wanted, and no RDMA READ for it was made yet.
    Waiting,
    /// RDMA READs for it are out.
    Fetching,
    /// It was answered while RDMA READs were out: the answer waits for them.
    Draining,
}

/// What can happen to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happens {
    /// The caller asks for its data.
    Pull,
    /// The RDMA READs were made.
    Fetched,
    /// The caller answers it.
    Reply,
    /// The last of its RDMA READs is over.
    AllIn,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Fetch the data.
    Fetch,
    /// Nothing more.
    Nothing,
    /// Answer, and free the slot.
    Answer,
    /// Keep the answer.
    Defer,
    /// Give the caller the data.
    GiveData,
    /// Send the answer that was kept, and free the slot.
    AnswerDeferred,
    /// It cannot happen here.
    Refuse,
}

/// What happens next to a slot, and the state it is in then.
#[inline]
pub fn step(state: Use, happens: Happens) -> (Use, Act) {
    match (state, happens) {
        (Use::Held, Happens::Pull) => (Use::Waiting, Act::Fetch),
        (Use::Waiting, Happens::Fetched) => (Use::Fetching, Act::Nothing),
        (Use::Held | Use::Waiting, Happens::Reply) => (Use::Free, Act::Answer),
        (Use::Fetching, Happens::Reply) => (Use::Draining, Act::Defer),
        (Use::Fetching, Happens::AllIn) => (Use::Held, Act::GiveData),
        (Use::Draining, Happens::AllIn) => (Use::Free, Act::AnswerDeferred),
        (state, _) => (state, Act::Refuse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_event() {
        use Act::*;
        use Use::*;
        let events = [Happens::Pull, Happens::Fetched, Happens::Reply, Happens::AllIn];
        let rows = [
            (Free, [(Free, Refuse); 4]),
            (Held, [(Waiting, Fetch), (Held, Refuse), (Free, Answer), (Held, Refuse)]),
            (Waiting, [(Waiting, Refuse), (Fetching, Nothing), (Free, Answer), (Waiting, Refuse)]),
            (Fetching, [(Fetching, Refuse), (Fetching, Refuse), (Draining, Defer), (Held, GiveData)]),
            (Draining, [(Draining, Refuse), (Draining, Refuse), (Draining, Refuse), (Free, AnswerDeferred)]),
        ];
        for (state, row) in rows {
            for (event, want) in events.into_iter().zip(row) {
                assert_eq!(step(state, event), want, "{state:?} and {event:?}");
            }
        }
    }
}
