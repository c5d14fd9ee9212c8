//! What the literature says of cleaning: closed forms, and the policies themselves run on pages without bytes.
//!
//! - A log whose segments are cleaned in the order of their age, uniform writes, as many free bytes as one likes at once: with `a` =
//!   size / live, writes are multiplied by `a / (a + W(-a e^-a))`, W being Lambert's function (P. Desnoyers, "Analytic modeling of SSD write
//!   performance", SYSTOR 2012; the same as J. Menon's and L. M. Bux and I. Iliadis' limit, "Performance of greedy garbage collection in
//!   flash-based solid-state drives", Performance Evaluation 67, 2010). Greedy cleaning of large segments comes to the same.
//! - Hot and cold data that never share a segment, each with the share of the free space that makes the sum least (Desnoyers):
//!   what any policy that does not know the future can hope for.
//! - Greedy (fewest live bytes first), and cost-benefit, (1 - u) * age / (1 + u) (M. Rosenblum and J. K. Ousterhout, "The design and
//!   implementation of a log-structured file system", SOSP 1991), by running them, with what is moved either
//!   in the same segments as what is new or in segments of its own.

/// By what writes are multiplied where size / live is `a`, cleaned in the order of age.
pub fn closed_form(a: f64) -> f64 {
    // x = -W(-a e^-a), below 1: the share of a segment that is live when its turn comes, times a.
    let mut x = 0.5;
    for _ in 0..200 {
        x = a * f64::exp(x - a);
    }
    a / (a - x)
}

/// The least for two kinds that are kept apart: `share` of the writes go to `part` of the data.
pub fn apart(a: f64, share: f64, part: f64) -> f64 {
    let spare = a - 1.0;
    let total = |hot: f64| {
        let (hot_a, cold_a) = (1.0 + spare * hot / part, 1.0 + spare * (1.0 - hot) / (1.0 - part));
        share * closed_form(hot_a) + (1.0 - share) * closed_form(cold_a)
    };
    (1..1000).map(|i| total(f64::from(i) / 1000.0)).fold(f64::INFINITY, f64::min)
}

/// Which segment is cleaned.
#[derive(Clone, Copy, PartialEq)]
pub enum Choice {
    Greedy,
    CostBenefit,
}

/// A log of pages without bytes.
pub struct Model {
    /// Pages of a segment.
    size: usize,
    /// Free segments at which it cleans.
    keep: usize,
    choice: Choice,
    /// What is moved goes to segments of its own.
    apart: bool,
    /// Where each page is.
    place: Vec<(u32, u32)>,
    segments: Vec<Segment>,
    free: Vec<u32>,
    open: [u32; 2],
    clock: u64,
    written: u64,
}

#[derive(Clone, Default)]
struct Segment {
    pages: Vec<u32>,
    live: usize,
    closed: bool,
    since: u64,
}

impl Model {
    pub fn new(live: u32, segments: u32, size: usize, keep: usize, choice: Choice, apart: bool) -> Model {
        let mut free: Vec<u32> = (0..segments).collect();
        let open = [free.pop().expect("segments"), free.pop().expect("segments")];
        let place = vec![(u32::MAX, 0); live as usize];
        let segments = vec![Segment::default(); segments as usize];
        let mut model =
            Model { size, keep, choice, apart, place, segments, free, open, clock: 0, written: 0 };
        (0..live).for_each(|page| model.write(page));
        model
    }

    /// A host writes a page.
    pub fn write(&mut self, page: u32) {
        while self.free.len() < self.keep {
            self.clean();
        }
        self.clock += 1;
        self.append(page, 0);
    }

    /// Pages written, moved ones among them, since it was last asked.
    pub fn written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    fn append(&mut self, page: u32, head: usize) {
        if let Some(old) = self.segments.get_mut(self.place[page as usize].0 as usize) {
            old.live -= 1;
        }
        if self.segments[self.open[head] as usize].pages.len() == self.size {
            let full = &mut self.segments[self.open[head] as usize];
            (full.closed, full.since) = (true, self.clock);
            self.open[head] = self.free.pop().expect("a free segment");
        }
        let number = self.open[head];
        let segment = &mut self.segments[number as usize];
        self.place[page as usize] = (number, segment.pages.len() as u32);
        segment.pages.push(page);
        segment.live += 1;
        self.written += 1;
    }

    fn clean(&mut self) {
        let score = |s: &Segment| {
            let used = s.live as f64 / self.size as f64;
            match self.choice {
                Choice::Greedy => 1.0 - used,
                Choice::CostBenefit => (1.0 - used) * (self.clock - s.since + 1) as f64 / (1.0 + used),
            }
        };
        let closed = self.segments.iter().enumerate().filter(|(_, s)| s.closed && s.live < self.size);
        let (victim, _) =
            closed.max_by(|a, b| score(a.1).total_cmp(&score(b.1))).expect("there is garbage somewhere");
        let pages = std::mem::take(&mut self.segments[victim].pages);
        for (i, page) in pages.into_iter().enumerate() {
            if self.place[page as usize] == (victim as u32, i as u32) {
                self.append(page, usize::from(self.apart));
            }
        }
        self.segments[victim] = Segment::default();
        self.free.push(victim as u32);
    }
}
