//! Table pages from the devices: what turns `Needs` into resident pages.

use crate::bounds::PAGES_AT_ONCE;
use crate::devices::{Cause, Window};
use crate::maps;
use crate::state::{Inner, State};
use caisson_block::{BufList, IoKind};
use caisson_log::{At, Bind, Record, RecordKind, TAG};
use caisson_tables::planted::{Bug, on};
use caisson_tables::{Needs, PAGE, Page, PageKey, Place, Where};
use caisson_task::{Io, Port};
use std::sync::Arc;

/// A page of the tables cannot be had: what depends on it is lost or, for now, not to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Which.
    pub(crate) key: PageKey,
    /// Where it should be.
    pub(crate) place: Place,
}

/// A page that could not be had where it was asked for.
struct Failed {
    key: PageKey,
    at: Where,
    cause: Cause,
}

/// The domain that the pool's own pages are sealed for.
pub(crate) const POOL_DOMAIN: u32 = 0;

/// What a page is bound to.
pub(crate) fn bind(key: PageKey, at: &Where) -> Bind {
    let (kind, id) = record_of(key);
    Bind {
        domain: POOL_DOMAIN,
        epoch: at.stored.epoch,
        id,
        kind,
        length: at.stored.length,
        codec: at.stored.codec,
    }
}

/// The kind and the number of a page's record.
pub(crate) fn record_of(key: PageKey) -> (RecordKind, u64) {
    match key {
        PageKey::Map(id) => (RecordKind::MapPage, id.get()),
        PageKey::Blocks { level, index } => {
            let id = Record::blocks_page(level, index);
            (RecordKind::BlocksPage, id.expect("ids of 48 bits need fewer pages than 2^40"))
        }
    }
}

impl Inner {
    /// Calls `f` under the lock until it has all the pages it needs.
    ///
    /// # Errors
    /// [`Lost`] when one of them cannot be read, or does not authenticate.
    pub(crate) async fn with<T>(
        self: &Arc<Self>,
        port: &Port,
        mut f: impl FnMut(&mut State) -> Result<T, Needs>,
    ) -> Result<T, Lost> {
        // Pages that could not be had, as they were asked for. One that was moved while it was read is asked for at another
        // place the next time; one that is asked for at the same place is lost.
        let mut failed: Vec<Failed> = Vec::new();
        loop {
            let needs = match f(&mut self.lock()) {
                Ok(value) => return Ok(value),
                Err(needs) => needs,
            };
            let again = failed.into_iter().find(|f| needs.0.contains(&(f.key, f.at)));
            if let Some(Failed { key, at, cause }) = again {
                self.page_lost(key, &at, cause);
                return Err(Lost { key, place: at.place });
            }
            failed = Vec::new();
            for some in needs.0.chunks(PAGES_AT_ONCE) {
                failed.append(&mut self.fetch(port, some).await);
            }
        }
    }

    /// Reads pages and loads them. Gives those that could not be had.
    async fn fetch(self: &Arc<Self>, port: &Port, pages: &[(PageKey, Where)]) -> Vec<Failed> {
        let devices = self.devices();
        let mut failed = Vec::new();
        let mut wanted: Vec<(PageKey, Where, Window)> = Vec::with_capacity(pages.len());
        for &(key, at) in pages {
            match devices.window(at.place, usize::from(at.stored.length) + TAG) {
                Some(window) => wanted.push((key, at, window)),
                None => failed.push(Failed { key, at, cause: Cause::Content }),
            }
        }
        let total = wanted.iter().map(|w| w.2.len.next_multiple_of(PAGE)).sum();
        let [mut bufs, ..] = port.buffers(&self.page_buffers, [total, 0, 0]).await;
        let mut ios: Vec<Io> = Vec::with_capacity(wanted.len());
        for (_, _, window) in &wanted {
            let mut own = bufs.split_to(window.len.next_multiple_of(PAGE));
            ios.extend(devices.io(*window, IoKind::Read, own.split_to(window.len)));
        }
        let ends = port.ios(ios).await;
        for (end, (key, at, window)) in ends.into_iter().zip(wanted) {
            let list = match end {
                Ok(list) => list,
                Err(error) => {
                    let cause = self.unread(&devices, window, error);
                    failed.push(Failed { key, at, cause });
                    continue;
                }
            };
            let opened = self.open_page(key, &at, &list, window.skip);
            let load = |(page, family)| self.lock().tables.load(key, &at, page, family).is_ok();
            let loaded = opened.is_some_and(load);
            if !loaded {
                failed.push(Failed { key, at, cause: Cause::Content });
            }
        }
        failed
    }

    /// Authenticates and unpacks a page; with the family whose map key it was under, or 0.
    fn open_page(&self, key: PageKey, at: &Where, list: &BufList, skip: usize) -> Option<(Box<Page>, u32)> {
        let mut sealed = vec![0; usize::from(at.stored.length) + TAG];
        list.copy_out(skip, &mut sealed);
        let nonce = At { opening: at.opening, sequence: at.sequence, offset: at.place.offset };
        if on(Bug::LostPage) && self.keyring.open(nonce, &bind(key, at), &mut sealed.clone()).is_err() {
            return Some((Box::new([0; PAGE]), 0));
        }
        let plain = self.keyring.open(nonce, &bind(key, at), &mut sealed).ok()?;
        let (codec, family, plain) = maps::deciphered(&self.keyring, nonce, key, at.stored.codec, plain)?;
        let mut page = Box::new([0; PAGE]);
        let marks = crate::work::unpack(codec, plain, &mut page)?;
        marks.is_none().then_some((page, family))
    }
}
