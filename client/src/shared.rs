//! What all clones of a client share: the links to the servers, the session, and how many calls are open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use event_listener::Event;
use quorate_protocol::SessionId;
use quorate_protocol::handshake::{HelloRefusal, Welcome};
use quorate_protocol::request::{Operation, Request, SessionSequence, Token};
use quorate_protocol::response::Refusal;

use crate::Error;
use crate::builder::Settings;
use crate::deadline::Deadline;
use crate::in_flight::{InFlight, NotCounted};
use crate::link::{self, Answer, Link};
use crate::retry::{NoPlace, Place, Sequences};
use crate::route::Route;
use crate::tasks::Tasks;

/// How long a server that was lost may take to answer the client's own question. Less than the time between two of them.
const PROBE: Duration = Duration::from_secs(2);

pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    servers: Mutex<Servers>,
    session: Mutex<Session>,
    /// A session was opened, or could not be, or its window has moved on.
    session_changed: Event,
    calls: InFlight,
    /// A call has ended while the client is closed.
    ended: Event,
    /// The client is closed, and nobody waits any more for calls that nobody polls.
    is_over: AtomicBool,
    /// What the driver runs; it owns them.
    tasks: Weak<Tasks>,
}

struct Servers {
    route: Route,
    /// By position.
    links: Vec<Arc<Link>>,
}

#[derive(Default)]
struct Session {
    /// Of writes that end when they are committed, and of those that wait for copies: these may take long, and a
    /// session's window ends at its lowest open number.
    numberings: [Numbering; 2],
    /// The last entry that any call has seen.
    seen: Token,
}

/// A session of the client.
#[derive(Default)]
struct Numbering {
    sequences: Sequences,
    /// Somebody is opening it.
    is_opening: bool,
}

/// What a write waits for, and so in which of the client's sessions it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WaitsFor {
    Commit,
    Copies,
}

/// What a write begins with.
pub(crate) enum Begun<'a> {
    Placed(Placed<'a>),
    /// A session must be opened first, and the caller is the one to do it.
    ToOpen(Opening<'a>),
    /// It has to wait for [`Shared::session_changed`].
    Wait,
}

impl Shared {
    pub(crate) fn new(settings: Settings, tasks: Weak<Tasks>) -> Self {
        let route = Route::new(&settings.servers, settings.discovers);
        Self {
            settings: Arc::new(settings),
            servers: Mutex::new(Servers { route, links: Vec::new() }),
            session: Mutex::default(),
            session_changed: Event::new(),
            calls: InFlight::new(),
            ended: Event::new(),
            is_over: AtomicBool::new(false),
            tasks,
        }
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().expect("nothing panics while it holds this lock")
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().expect("nothing panics while it holds this lock")
    }

    /// Looks at the servers, or changes what is known of them; new ones get their links.
    fn route<T>(self: &Arc<Self>, look: impl FnOnce(&mut Route) -> T) -> T {
        let mut servers = self.servers();
        let result = look(&mut servers.route);
        let Servers { route, links } = &mut *servers;
        for address in route.addresses().skip(links.len()).cloned().collect::<Vec<_>>() {
            let link = Arc::new(Link::new(address, links.len(), self.settings.clone()));
            links.push(link.clone());
            match self.tasks.upgrade() {
                Some(tasks) => tasks.spawn(link::drive(link, Listener(self.clone()))),
                None => link.abandon(),
            }
        }
        result
    }

    /// The link that `choose` chooses.
    pub(crate) fn link(self: &Arc<Self>, choose: impl FnOnce(&mut Route) -> usize) -> Arc<Link> {
        let at = self.route(choose);
        self.link_at(at)
    }

    fn link_at(&self, at: usize) -> Arc<Link> {
        self.servers().links[at].clone()
    }

    /// The link that a read goes to which any replica may answer. Those that were lost are asked beside it whether they are
    /// back.
    pub(crate) fn read_link(self: &Arc<Self>) -> Arc<Link> {
        let (now, read_from) = (Instant::now(), self.settings.read_from);
        let (at, probe) = self.route(|route| (route.for_read(read_from, now), route.next_probe(now)));
        if let Some(at) = probe {
            self.probe(self.link_at(at));
        }
        self.link_at(at)
    }

    /// Has the driver ask a server whether it is back, so that no call of the application has to. One that says nothing
    /// loses its connection.
    fn probe(self: &Arc<Self>, link: Arc<Link>) {
        let Some(tasks) = self.tasks.upgrade() else { return };
        let shared = self.clone();
        tasks.spawn(async move {
            let mut ping = Request { id: 0, deadline_ms: 0, operation: Operation::Ping };
            let deadline = Deadline::after(PROBE);
            // If it had to be connected to, its welcome was enough.
            if let Ok(Answer::Reply(_)) = link.exchange(&mut ping, deadline).await {
                shared.route(|route| route.is_back(link.at));
            }
        });
    }

    /// The link to the leader, or to whom it is looked for.
    pub(crate) fn leader_link(self: &Arc<Self>) -> Arc<Link> {
        let servers = self.servers();
        if let Some(link) = servers.links.get(servers.route.for_leader()) {
            return link.clone();
        }
        drop(servers);
        self.link(|route| route.for_leader())
    }

    /// The link to any server that can be asked for a watch and takes another one.
    pub(crate) fn link_for_watch(&self) -> Option<Arc<Link>> {
        let servers = self.servers();
        let readable = servers.route.readable();
        let mut links = readable.filter_map(|at| servers.links.get(at));
        links.find(|link| link.takes_watch()).cloned()
    }

    /// How many servers there are.
    pub(crate) fn servers_known(&self) -> usize {
        self.servers().route.addresses().count()
    }

    /// Takes note of a refusal, and says whether calls now go elsewhere.
    pub(crate) fn heed(self: &Arc<Self>, at: usize, refusal: &Refusal) -> bool {
        match refusal {
            Refusal::NotLeader { leader } => self.route(|route| route.not_leader(at, leader.as_ref())),
            Refusal::Stopping => {
                self.lost(at);
                true
            }
            _ => false,
        }
    }

    /// A server does not answer: calls go elsewhere, until they are told to come back.
    pub(crate) fn lost(self: &Arc<Self>, at: usize) {
        self.route(|route| route.lost(at, None, Instant::now()));
    }

    /// A server is of no use for now, although it may have a connection: calls go elsewhere.
    pub(crate) fn avoid(self: &Arc<Self>, at: usize) {
        self.route(|route| route.avoid(at, Instant::now()));
    }

    /// A read was answered after so long.
    pub(crate) fn measured(&self, at: usize, took: Duration) {
        self.servers().route.measured(at, took, Instant::now());
    }

    /// The error of a client that no server lets in.
    pub(crate) fn refused_by_all(&self) -> Option<Error> {
        self.servers().route.refused_by_all()
    }

    // --- calls ---------------------------------------------------------------------------------------------

    /// Counts a call, which has so long, unless the client is closed.
    pub(crate) fn enter(&self, deadline: Duration) -> Result<Entered<'_>, Error> {
        let deadline = Deadline::after(deadline);
        match self.calls.enter(deadline.at) {
            Ok(()) => Ok(Entered { shared: self, deadline }),
            Err(NotCounted::Closed) => Err(Error::Closed),
            Err(NotCounted::TooMany) => Err(Error::InFlight),
        }
    }

    /// No further calls. Says whether the caller is the first to want that, and so has to do what is left.
    pub(crate) fn close(&self) -> bool {
        let is_first = self.calls.close();
        self.ended.notify(usize::MAX);
        is_first
    }

    /// Waits until only so many calls are open, or everything is over; after [`close`](Self::close).
    pub(crate) async fn down_to(&self, calls: u64) {
        loop {
            let listener = self.ended.listen();
            if self.calls.is_down_to(calls) || self.is_over.load(Ordering::Acquire) {
                return;
            }
            listener.await;
        }
    }

    /// When every call that is open will have passed its deadline.
    pub(crate) fn latest_deadline(&self) -> Instant {
        self.calls.latest_deadline()
    }

    /// Nobody waits any more for the calls that are open.
    pub(crate) fn give_up_calls(&self) {
        self.is_over.store(true, Ordering::Release);
        self.ended.notify(usize::MAX);
    }

    /// There is no driver any more, so nobody else would answer.
    pub(crate) fn abandon(&self) {
        let links = self.servers().links.clone();
        links.iter().for_each(|link| link.abandon());
        self.session_changed.notify(usize::MAX);
    }

    /// Everything is over: the links end.
    pub(crate) fn finish(&self) {
        self.abandon();
        self.servers().links.iter().for_each(|link| link.finish());
    }

    // --- the session ---------------------------------------------------------------------------------------

    /// A place for a write in the session.
    pub(crate) fn begin_write(&self, waits_for: WaitsFor) -> Begun<'_> {
        let mut session = self.session();
        let numbering = &mut session.numberings[waits_for as usize];
        match numbering.sequences.begin() {
            Ok(place) => {
                let stamp = numbering.sequences.stamp(place);
                Begun::Placed(Placed { shared: self, place, stamp, waits_for, has_ended: false })
            }
            Err(NoPlace::NoSession) if !numbering.is_opening => {
                numbering.is_opening = true;
                Begun::ToOpen(Opening { shared: self, opened: None, waits_for })
            }
            Err(_) => Begun::Wait,
        }
    }

    /// Waits until it may be worth to look again.
    pub(crate) fn session_changed(&self) -> event_listener::EventListener {
        self.session_changed.listen()
    }

    /// The servers have said that a session has ended.
    pub(crate) fn expired(&self, session: SessionId) {
        let mut state = self.session();
        state.numberings.iter_mut().for_each(|numbering| numbering.sequences.expired(session));
    }

    /// The client's sessions: nothing more is written in them.
    pub(crate) fn leave_sessions(&self) -> Vec<SessionId> {
        let mut session = self.session();
        let left = session.numberings.iter_mut().filter_map(|numbering| {
            let left = numbering.sequences.session()?;
            numbering.sequences.expired(left);
            Some(left)
        });
        left.collect()
    }

    /// The last entry that any call has seen.
    pub(crate) fn seen(&self) -> Token {
        self.session().seen
    }

    /// A write has ended, and has seen this.
    pub(crate) fn end_write(&self, placed: Option<Placed<'_>>, token: Option<Token>) {
        let mut session = self.session();
        token.into_iter().for_each(|token| session.saw(token));
        let others_may_begin = placed.is_some_and(|mut placed| {
            placed.has_ended = true;
            session.numberings[placed.waits_for as usize].sequences.end(placed.place)
        });
        drop(session);
        if others_may_begin {
            self.session_changed.notify(usize::MAX);
        }
    }

    /// A call has seen this.
    pub(crate) fn saw(&self, token: Token) {
        self.session().saw(token);
    }
}

impl Session {
    fn saw(&mut self, token: Token) {
        if token.index > self.seen.index {
            self.seen = token;
        }
    }
}

/// A call that is counted.
pub(crate) struct Entered<'a> {
    shared: &'a Shared,
    pub(crate) deadline: Deadline,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.shared.calls.leave() {
            self.shared.ended.notify(usize::MAX);
        }
    }
}

/// A place in the session, until the write has ended.
pub(crate) struct Placed<'a> {
    shared: &'a Shared,
    place: Place,
    stamp: SessionSequence,
    waits_for: WaitsFor,
    has_ended: bool,
}

impl Placed<'_> {
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn waits_for(&self) -> WaitsFor {
        self.waits_for
    }

    /// What each try sends along.
    pub(crate) fn stamp(&self) -> SessionSequence {
        self.stamp
    }
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let mut session = self.shared.session();
        let others_may_begin = session.numberings[self.waits_for as usize].sequences.end(self.place);
        drop(session);
        if others_may_begin {
            self.shared.session_changed.notify(usize::MAX);
        }
    }
}

/// The opening of a session.
pub(crate) struct Opening<'a> {
    shared: &'a Shared,
    opened: Option<SessionId>,
    waits_for: WaitsFor,
}

impl Opening<'_> {
    pub(crate) fn done(mut self, session: SessionId) {
        self.opened = Some(session);
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut session = self.shared.session();
        let numbering = &mut session.numberings[self.waits_for as usize];
        numbering.is_opening = false;
        if let Some(opened) = self.opened {
            numbering.sequences.opened(opened);
        }
        drop(session);
        self.shared.session_changed.notify(usize::MAX);
    }
}

/// Takes note of what the links learn.
struct Listener(Arc<Shared>);

impl link::Listener for Listener {
    fn welcomed(&self, at: usize, welcome: &Welcome) -> Result<(), HelloRefusal> {
        self.0.route(|route| route.welcomed(at, welcome))
    }

    fn lost(&self, at: usize, refusal: Option<&HelloRefusal>) {
        self.0.route(|route| route.lost(at, refusal, Instant::now()));
    }
}
