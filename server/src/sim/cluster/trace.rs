//! What has happened, for whoever looks into a failure; a hash of it, and how often each thing happened.

use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::rc::Rc;

use super::schedule::{Moment, Place};
use super::text::{shown_peer_message, shown_request, shown_response};

/// Lines that are kept.
const LINES_MAX: usize = 500;

/// Something worth a line.
#[derive(Debug)]
pub(super) enum Line {
    Sent {
        from: Place,
        to: Place,
        message: Rc<[u8]>,
    },
    Arrived {
        from: Place,
        to: Place,
        message: Rc<[u8]>,
        is_late_copy: bool,
    },
    Asked {
        client: usize,
        to: Place,
        message: Rc<[u8]>,
    },
    Answered {
        client: usize,
        from: Place,
        message: Rc<[u8]>,
    },
    /// Of a node, and not often.
    Node(Place, String),
    /// Of the world.
    World(String),
    /// A number that a node has got to.
    Reached(Place, &'static str, u64),
}

/// The last lines, and a hash of all.
pub(super) struct Trace {
    lines: VecDeque<(Moment, Line)>,
    hash: u64,
    prints: bool,
}

impl Trace {
    /// With `prints` every line is printed as it comes.
    pub(super) fn new(prints: bool) -> Self {
        Self { lines: VecDeque::new(), hash: 0xcbf2_9ce4_8422_2325, prints }
    }

    pub(super) fn note(&mut self, now: Moment, line: Line) {
        self.mix(now);
        self.mix_line(&line);
        if self.prints {
            eprintln!("{}", Shown(now, &line));
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back((now, line));
    }

    /// Of everything that has happened so far.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }

    fn mix_line(&mut self, line: &Line) {
        let (kind, one, other, bytes): (u64, usize, usize, &[u8]) = match line {
            Line::Sent { from, to, message } => (1, *from, *to, message),
            Line::Arrived { from, to, message, is_late_copy } => {
                (2 + u64::from(*is_late_copy), *from, *to, message)
            }
            Line::Asked { client, to, message } => (4, *client, *to, message),
            Line::Answered { client, from, message } => (5, *client, *from, message),
            Line::Node(node, text) => (6, *node, 0, text.as_bytes()),
            Line::World(text) => (7, 0, 0, text.as_bytes()),
            Line::Reached(node, what, number) => {
                self.mix(*number);
                (8, *node, 0, what.as_bytes())
            }
        };
        self.mix(kind << 32 | (one as u64) << 16 | other as u64);
        self.mix(u64::from(crc32c::crc32c(bytes)));
    }
}

impl Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|(at, line)| writeln!(f, "{}", Shown(*at, line)))
    }
}

struct Shown<'a>(Moment, &'a Line);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(at, line) = self;
        write!(f, "{:12.6}  ", *at as f64 / 1e9)?;
        match line {
            Line::Sent { from, to, message } => {
                write!(f, "{} → {}    {}", from + 1, to + 1, shown_peer_message(message))
            }
            Line::Arrived { from, to, message, is_late_copy } => {
                let copy = if *is_late_copy { " (a late copy)" } else { "" };
                write!(f, "{} ⇒ {}    {}{copy}", from + 1, to + 1, shown_peer_message(message))
            }
            Line::Asked { client, to, message } => {
                write!(f, "c{client} ⇒ {}   {}", to + 1, shown_request(message))
            }
            Line::Answered { client, from, message } => {
                write!(f, "{} ⇒ c{client}   {}", from + 1, shown_response(message))
            }
            Line::Node(node, text) => write!(f, "{}        {text}", node + 1),
            Line::World(text) => write!(f, "-        {text}"),
            Line::Reached(node, what, number) => write!(f, "{}        {what} {number}", node + 1),
        }
    }
}

macro_rules! happened {
    ($($name:ident),* $(,)?) => {
        /// What a run counts.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Happened { $($name),* }

        impl Happened {
            pub(super) const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

happened!(
    Writes,
    Reads,
    UnknownOutcomes,
    Refusals,
    Commits,
    Kills,
    PowerLosses,
    PowerLossesOfAll,
    CrashesInsideAPromise,
    CrashesInsideALogStep,
    CrashesAheadOfTheDisk,
    Restarts,
    Pauses,
    Freezes,
    LinkCuts,
    OneWayCuts,
    Splits,
    Isolations,
    BrokenConnections,
    SlowLinks,
    LateCopies,
    Reorderings,
    DiskStalls,
    DiskTimeouts,
    FailedSyncs,
    FullDisks,
    WritesWithoutRoom,
    Truncations,
    Checkpoints,
    LogDrops,
    LogReads,
    Installs,
    Terms,
    LeaderChanges,
    StepDowns,
    HandOvers,
    Stops,
    Behind,
    SessionReads,
    SessionReadsElsewhere,
    SessionsOpened,
    SessionsClosed,
    SessionsExpired,
    SessionWrites,
    SentAgain,
    Copies,
    CopiesRefused,
    OtherPayloadsRefused,
    Repeats,
    RepeatsAfterFailover,
    RepeatsOfLogThatIsGone,
    ExpiredWrites,
    CallsMoved,
    RottenLogs,
    LogsSetAside,
    DeniedEntries,
    RottenVotes,
    ReplacedDisks,
    AdmissionsByOperator,
    AdmissionsByLeader,
    WholeAgain,
    StoredBelowN,
    WrittenAboveN,
    WrittenWithFewerCopies,
    Progresses,
    WatchedPages,
    WatchesResumedElsewhere,
    HistoriesLost,
);

/// How often each thing happened.
#[derive(Clone, Debug)]
pub(super) struct Counts([u64; Happened::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Happened::ALL.len()])
    }
}

impl Counts {
    pub(super) fn add(&mut self, what: Happened) {
        self.0[what as usize] += 1;
    }

    pub(super) fn of(&self, what: Happened) -> u64 {
        self.0[what as usize]
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }
}

impl Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Happened::ALL.iter().try_for_each(|what| writeln!(f, "{:>12}  {what:?}", self.of(*what)))
    }
}
