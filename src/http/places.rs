//! The places of one listener: who gets one, and who makes room.
//!
//! A new connection replaces an idle one, the longest idle one of whoever has most, so silent clients
//! never keep a good one waiting. One address has a share of the places only, and a few more are kept
//! for health checks. A request beyond that has the slowest request body cut, or is answered 503. No
//! request in progress is cut otherwise.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::body::Bodies;

/// Places beyond the limit that serve health checks alone.
const RESERVE: usize = 16;
/// One address has at most one in so many places of a listener.
const SHARE: usize = 4;

/// No request is in progress: at most a part of a head has arrived.
const IDLE: u8 = 0;
const BUSY: u8 = 1;
/// The response was handed over; the connection is idle once it is flushed.
const ENDING: u8 = 2;
/// The connection is being closed: it only waits for its last response to arrive.
const CLOSING: u8 = 3;
/// Another connection has its place.
const EVICTED: u8 = 4;

/// One open connection, as its listener sees it.
#[derive(Debug)]
pub(super) struct Seat {
    client: Option<IpAddr>,
    phase: AtomicU8,
    /// Since when it is in this phase.
    since: Mutex<Instant>,
    is_reserve: AtomicBool,
    evicted: CancellationToken,
}

impl Seat {
    fn new(client: Option<IpAddr>, is_reserve: bool) -> Self {
        Self {
            client,
            phase: AtomicU8::new(IDLE),
            since: Mutex::new(Instant::now()),
            is_reserve: AtomicBool::new(is_reserve),
            evicted: CancellationToken::new(),
        }
    }

    /// Returns whether no request is in progress.
    pub(super) fn is_idle(&self) -> bool {
        self.phase.load(Ordering::Acquire) == IDLE
    }

    /// A request arrived. `false` if the place went to another connection just before.
    pub(super) fn begin(&self) -> bool {
        let begun = |phase| (phase != EVICTED).then_some(BUSY);
        self.phase
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, begun)
            .is_ok()
    }

    /// The response was handed over.
    pub(super) fn end(&self) {
        self.step(BUSY, ENDING);
    }

    pub(super) fn flushed(&self) {
        if self.phase.load(Ordering::Acquire) == ENDING {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            self.step(ENDING, IDLE);
        }
    }

    pub(super) fn close(&self) {
        let closing = |phase| (phase != EVICTED).then_some(CLOSING);
        let _ = self
            .phase
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, closing);
    }

    fn evict(&self) -> bool {
        let is_evicted = self.step(CLOSING, EVICTED) || self.step(IDLE, EVICTED);
        if is_evicted {
            self.evicted.cancel();
        }
        is_evicted
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.phase
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn is_waiting(&self) -> bool {
        matches!(self.phase.load(Ordering::Acquire), IDLE | CLOSING)
    }

    fn is_reserve(&self) -> bool {
        self.is_reserve.load(Ordering::Acquire)
    }

    fn is_of(&self, client: IpAddr) -> bool {
        self.client == Some(client)
    }

    fn since(&self) -> Instant {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Open = HashMap<u64, Arc<Seat>>;

/// Whether there is room for one more connection of a client.
enum Room {
    Free,
    /// No, unless a connection ends: one of this client if it has its share.
    Taken {
        among: Option<IpAddr>,
    },
}

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    share: usize,
    bodies: Bodies,
    open: Mutex<Open>,
    freed: Notify,
}

impl Places {
    pub(super) fn new(most: usize, bodies: Bodies) -> Arc<Self> {
        let most = most.max(2);
        Arc::new(Self {
            most,
            share: (most / SHARE).max(2),
            bodies,
            open: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Waits until a connection of `client` has a place, the `id`th of this listener.
    pub(super) async fn take(self: &Arc<Self>, id: u64, client: Option<IpAddr>) -> Place {
        loop {
            // Registered before the look, so that no place is freed unseen.
            let freed = self.freed.notified();
            if let Some(place) = self.try_take(id, client) {
                return place;
            }
            freed.await;
        }
    }

    fn try_take(self: &Arc<Self>, id: u64, client: Option<IpAddr>) -> Option<Place> {
        let mut open = self.lock();
        let is_reserve = match self.room(&open, client) {
            Room::Free => false,
            Room::Taken { among } => {
                match evict(&mut open, |seat| among.is_none_or(|c| seat.is_of(c))) {
                    Some(evicted) => evicted.is_reserve(),
                    None if open.len() >= self.most + RESERVE => {
                        self.bodies.cut_slowest(None);
                        return None;
                    }
                    None => true,
                }
            }
        };
        let seat = Arc::new(Seat::new(client, is_reserve));
        open.insert(id, Arc::clone(&seat));
        let places = Arc::clone(self);
        Some(Place { id, seat, places })
    }

    fn room(&self, open: &Open, client: Option<IpAddr>) -> Room {
        let full = || open.values().filter(|seat| !seat.is_reserve());
        if client.is_some() && full().filter(|seat| seat.client == client).count() >= self.share {
            Room::Taken { among: client }
        } else if full().count() >= self.most {
            Room::Taken { among: None }
        } else {
            Room::Free
        }
    }

    /// Makes room for a request on a place of the reserve.
    fn promote(&self, seat: &Seat) -> bool {
        let mut open = self.lock();
        let has_room = match self.room(&open, seat.client) {
            Room::Free => true,
            Room::Taken { among } => {
                let may_go = |other: &Seat| {
                    !other.is_reserve() && among.is_none_or(|client| other.is_of(client))
                };
                evict(&mut open, may_go).is_some() || self.bodies.cut_slowest(among)
            }
        };
        if has_room {
            seat.is_reserve.store(false, Ordering::Release);
        }
        has_room
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the longest idle connection of the client that has most, among those that `may_go`.
fn evict(open: &mut Open, may_go: impl Fn(&Seat) -> bool) -> Option<Arc<Seat>> {
    let mut of_each: HashMap<Option<IpAddr>, usize> = HashMap::new();
    for seat in open.values() {
        *of_each.entry(seat.client).or_default() += 1;
    }
    loop {
        let (id, seat) = open
            .iter()
            .filter(|(_, seat)| seat.is_waiting() && may_go(seat))
            .max_by_key(|(_, seat)| (of_each[&seat.client], Reverse(seat.since())))
            .map(|(id, seat)| (*id, Arc::clone(seat)))?;
        // A request may have arrived just now.
        if seat.evict() {
            open.remove(&id);
            return Some(seat);
        }
    }
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    pub(super) seat: Arc<Seat>,
    places: Arc<Places>,
}

impl Place {
    /// Returns whether any request may be served here, not only a health check. Where all places are
    /// taken, an idle connection or the slowest body makes room.
    pub(super) fn is_full(&self) -> bool {
        !self.seat.is_reserve() || self.places.promote(&self.seat)
    }

    /// Ends when another connection has the place.
    pub(super) async fn lost(&self) {
        self.seat.evicted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(&self.id);
        self.places.freed.notify_one();
    }
}
