//! Who may run: a place for each file in progress, so many in all, for one application and at one
//! origin. Whatever one of them does, the others find free places, and files that are slow or wait
//! for their origin keep none from starting that could be fast.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};

use crate::datafile::AppId;
use crate::job::{Job, JobId};
use crate::shown::Activation;
use crate::store::jobs::{self, Turn};
use crate::store::{self, activations};

/// Turns looked at in one poll; the next poll goes on behind them.
const TURNS: usize = 1024;

/// The places and who has them.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// Places in all.
    pub(super) all: usize,
    /// Places of files from one origin that are not slow.
    pub(super) per_origin: usize,
    /// Largest size of a small file.
    pub(super) small_bytes: u64,
    /// The jobs that are running.
    pub(super) taken: HashSet<JobId>,
    total: Count,
    apps: HashMap<AppId, Count>,
    origins: HashMap<String, Origin>,
}

/// Files in progress from one origin.
#[derive(Debug, Clone, Copy, Default)]
struct Origin {
    all: Count,
    fast: Count,
}

/// Files in progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Count {
    all: usize,
    large: usize,
}

impl Count {
    fn add(&mut self, small: bool) {
        self.all += 1;
        self.large += usize::from(!small);
    }

    /// Returns whether one more keeps within `most`, of which small files alone get the last
    /// quarter.
    fn admits(self, small: bool, most: usize) -> bool {
        let large = most - most / 4;
        self.all < most && (small || self.large < large)
    }
}

/// What one poll found.
#[derive(Debug, Default)]
pub(super) struct Picked {
    /// What starts now, each with whether it is small.
    pub(super) jobs: Vec<(Job, bool)>,
    /// Where jobs wait for a place.
    pub(super) crowded: Vec<Crowded>,
    /// Behind which turn the next poll goes on; `None` if it saw all of them.
    pub(super) after: Option<Turn>,
}

/// A turn that waits, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Crowded {
    pub(super) turn: Turn,
    pub(super) scope: Scope,
}

/// Which places are all taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    App,
    Origin,
    /// Those of files from one origin that are not slow.
    Fast,
}

/// A turn's jobs that may start.
struct Queue {
    turn: Turn,
    /// Those in order of acceptance, and the small ones by size.
    due: [VecDeque<Job>; 2],
}

impl Places {
    pub(super) fn new(all: usize, per_origin: usize, small_bytes: u64) -> Self {
        Self {
            all,
            per_origin,
            small_bytes,
            taken: HashSet::new(),
            total: Count::default(),
            apps: HashMap::new(),
            origins: HashMap::new(),
        }
    }

    /// Gives a place to a file.
    pub(super) fn take(&mut self, id: JobId, turn: &Turn, small: bool, slow: bool) {
        self.taken.insert(id);
        self.total.add(small);
        self.apps.entry(turn.app.clone()).or_default().add(small);
        let origin = self.origins.entry(turn.origin.clone()).or_default();
        origin.all.add(small);
        if !slow {
            origin.fast.add(small);
        }
    }

    /// Returns what keeps a file from starting; `None` if it may.
    ///
    /// An application gets at most as many places as it leaves free, and an origin half as many, so
    /// that a second one, and a third, always finds some (the dynamic threshold of shared buffers
    /// in switches).
    fn lacks(&self, turn: &Turn, small: bool) -> Option<Scope> {
        if !self.total.admits(small, self.all) {
            return Some(Scope::All);
        }
        let free = self.all.saturating_sub(self.total.all);
        let origin = self.origins.get(&turn.origin).copied().unwrap_or_default();
        if !turn.origin.is_empty() && !origin.fast.admits(small, self.per_origin) {
            return Some(Scope::Fast);
        }
        if !turn.origin.is_empty() && !origin.all.admits(small, free.div_ceil(2)) {
            return Some(Scope::Origin);
        }
        let app = self.apps.get(&turn.app).copied().unwrap_or_default();
        (!app.admits(small, free)).then_some(Scope::App)
    }

    /// Picks the jobs that start now, and gives them their places: applications take turns, and so
    /// do the origins of each.
    pub(super) fn pick(
        mut self,
        reader: &store::Reader<'_>,
        now_ms: i64,
        after: Option<&Turn>,
    ) -> Result<Picked, store::Error> {
        let turns = jobs::turns(reader, after, TURNS)?;
        let mut picked = Picked {
            after: turns.last().filter(|_| turns.len() == TURNS).cloned(),
            ..Picked::default()
        };
        let mut queues = Vec::with_capacity(turns.len());
        for turn in turns {
            queues.push(self.queue(reader, turn, now_ms)?);
        }
        let mut heap: BinaryHeap<_> = (0..queues.len())
            .map(|n| Reverse((self.share(&queues[n].turn), n)))
            .collect();
        while let Some(Reverse((share, n))) = heap.pop() {
            let now = self.share(&queues[n].turn);
            if now != share {
                heap.push(Reverse((now, n)));
                continue;
            }
            match self.next(&mut queues[n]) {
                Ok(Some((job, small))) => {
                    self.take(job.id, &queues[n].turn, small, false);
                    picked.jobs.push((job, small));
                    heap.push(Reverse((self.share(&queues[n].turn), n)));
                }
                Ok(None) => {}
                Err(scope) => picked.crowded.push(Crowded {
                    turn: queues[n].turn.clone(),
                    scope,
                }),
            }
        }
        Ok(picked)
    }

    /// Who has least comes first.
    fn share(&self, turn: &Turn) -> (usize, usize) {
        let app = self.apps.get(&turn.app).map_or(0, |c| c.all);
        let origin = self.origins.get(&turn.origin).map_or(0, |c| c.all.all);
        (app, origin)
    }

    fn queue(
        &self,
        reader: &store::Reader<'_>,
        turn: Turn,
        now_ms: i64,
    ) -> Result<Queue, store::Error> {
        // One more than may start, to see whether any waits.
        let here = self.origins.get(&turn.origin).map_or(0, |c| c.fast.all);
        let free = self.per_origin.saturating_sub(here);
        let most = free.min(self.all.saturating_sub(self.total.all)) + 1;
        let due = jobs::due(reader, &turn, now_ms, most, &self.taken)?;
        let small = match due.len() < most {
            // All of them are there already.
            true => Vec::new(),
            false => jobs::due_small(reader, &turn, self.small_bytes, now_ms, most, &self.taken)?,
        };
        Ok(Queue {
            turn,
            due: [due.into(), small.into()],
        })
    }

    /// Takes the next job of a turn that may start: in order of acceptance, or the smallest one if
    /// only small ones may.
    fn next(&self, queue: &mut Queue) -> Result<Option<(Job, bool)>, Scope> {
        let mut lacks = None;
        for due in &mut queue.due {
            due.retain(|job| !self.taken.contains(&job.id));
            let found = due.iter().position(|job| {
                let small = self.is_small(job);
                match self.lacks(&queue.turn, small) {
                    None => true,
                    Some(scope) => {
                        lacks.get_or_insert(scope);
                        false
                    }
                }
            });
            if let Some(job) = found.and_then(|n| due.remove(n)) {
                let small = self.is_small(&job);
                return Ok(Some((job, small)));
            }
        }
        lacks.map_or(Ok(None), Err)
    }

    /// Returns a turn that waits, as text, and why.
    pub(super) fn describe(&self, crowded: &Crowded) -> ((String, String), String) {
        let Turn { app, origin } = &crowded.turn;
        let why = match crowded.scope {
            Scope::All => format!(
                "all {} places for files are taken (`runner.files`)",
                self.all
            ),
            Scope::App => format!("{app} has as many files in progress as it leaves places free"),
            Scope::Origin => {
                format!("{origin} has half as many files in progress as it leaves places free")
            }
            Scope::Fast => format!(
                "the {} places for files from {origin} are taken (`runner.files_per_origin`)",
                self.per_origin
            ),
        };
        (
            (app.to_string(), origin.clone()),
            format!("waits for a place: {why}"),
        )
    }

    fn is_small(&self, job: &Job) -> bool {
        job.file.size.is_some_and(|size| size <= self.small_bytes)
    }
}

/// Work found by one poll of the store.
pub(super) struct Poll {
    pub(super) canceled: Vec<JobId>,
    pub(super) flips: Vec<Activation>,
    pub(super) picked: Picked,
    /// When the next delayed job is due, in milliseconds since the epoch.
    pub(super) next: Option<i64>,
    /// Whether jobs are put off by a clock that has since been set back.
    pub(super) lost: bool,
}

impl Poll {
    pub(super) fn take(
        reader: &store::Reader<'_>,
        now_ms: i64,
        places: Places,
        after: Option<&Turn>,
    ) -> Result<Self, store::Error> {
        Ok(Self {
            canceled: jobs::to_cancel(reader)?,
            flips: activations::pending(reader)?,
            picked: places.pick(reader, now_ms, after)?,
            next: jobs::next_delayed_ms(reader, now_ms)?,
            lost: jobs::is_lost(reader, now_ms)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datafile::{AppId, SourceUrl};
    use crate::store::testing::{Bench, NOW, file};

    fn turn(app: &str, origin: &str) -> Turn {
        Turn {
            app: AppId::parse(app).unwrap(),
            origin: origin.to_owned(),
        }
    }

    /// Takes places as long as there are any, and returns how many and what lacks then.
    fn fill(places: &mut Places, turns: &[Turn], small: bool, slow: bool) -> (usize, Scope) {
        for n in 0.. {
            let turn = &turns[n % turns.len()];
            if let Some(scope) = places.lacks(turn, small) {
                return (n, scope);
            }
            let id = i64::try_from(places.taken.len()).unwrap();
            places.take(JobId(id), turn, small, slow);
        }
        unreachable!()
    }

    #[test]
    fn the_last_quarter_of_an_origins_places_is_for_small_files() {
        let mut places = Places::new(1024, 64, 1000);
        let one = [turn("a", "slow:80")];
        assert_eq!(fill(&mut places, &one, false, false), (48, Scope::Fast));
        assert_eq!(fill(&mut places, &one, true, false), (16, Scope::Fast));
        assert_eq!(places.lacks(&turn("a", "other:80"), false), None);
    }

    #[test]
    fn an_application_gets_as_many_places_as_it_leaves_free() {
        let mut places = Places::new(1024, 64, 1000);
        let many = |app| -> Vec<_> { (0..99).map(|n| turn(app, &format!("{app}{n}"))).collect() };
        assert_eq!(
            fill(&mut places, &many("a"), true, false),
            (512, Scope::App)
        );
        assert_eq!(
            fill(&mut places, &many("b"), true, false),
            (256, Scope::App)
        );
        assert_eq!(
            fill(&mut places, &many("c"), true, false),
            (128, Scope::App)
        );
        assert_eq!(places.lacks(&turn("d", "d"), false), None);
    }

    #[test]
    fn slow_files_of_an_origin_keep_no_fast_one_from_starting() {
        let mut places = Places::new(4096, 64, 1000);
        let one = turn("a", "slow:80");
        for n in 0..1000 {
            assert_eq!(places.lacks(&one, false), None, "{n}");
            places.take(JobId(n), &one, false, true);
        }
        let (more, scope) = fill(&mut places, &[one], true, true);
        assert_eq!((more, scope), (366, Scope::Origin));
        assert_eq!(places.lacks(&turn("a", "other:80"), false), None);
    }

    #[tokio::test]
    async fn applications_and_their_origins_take_turns() {
        let bench = Bench::new();
        let accept = async |app: &str, host: &str, n: usize| {
            for version in 0..n {
                let mut file = file(host, &version.to_string());
                file.key.app = AppId::parse(app).unwrap();
                file.url = SourceUrl::parse(&format!("http://{host}/f")).unwrap();
                bench.accept(file).await;
            }
        };
        accept("a", "x", 90).await;
        accept("a", "y", 3).await;
        accept("b", "z", 3).await;
        let places = Places::new(16, 8, 1000);
        let picked = bench.store.read(move |r| places.pick(r, NOW, None));
        let picked = picked.await.unwrap();
        let count = |app: &str, host: &str| {
            let of = |(job, _): &&(Job, bool)| {
                job.file.key.app.as_str() == app && job.file.key.name.as_str() == host
            };
            picked.jobs.iter().filter(of).count()
        };
        assert_eq!(
            (count("a", "x"), count("a", "y"), count("b", "z")),
            (4, 3, 3)
        );
        let waits: Vec<_> = picked.crowded.iter().map(|c| (&c.turn, c.scope)).collect();
        assert_eq!(waits, [(&turn("a", "x:80"), Scope::Origin)]);
    }
}
