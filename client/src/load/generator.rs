//! Runs a load: one task for each call that may be open, all on the calling thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_io::Timer;
use smol::LocalExecutor;

use super::arrivals::{Pacer, Schedule};
use super::content::{CallId, Content, Kind, Recipe};
use super::control::{Control, Live};
use super::keys::{KeyPrefix, key};
use super::record::Record;
use super::report::{Report, Second};
use super::tally::{Call, Tally, Window};
use super::target::{Connection, Target};
use super::workload::{Arrivals, Workload, WorkloadError};

/// How long a task of a closed loop pauses after a call that failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// How often the clock looks around. So often because a thread that rarely wakes by itself loses the
/// reactor to the runtime's helper thread, and then every answer costs a hand-over between threads.
const TICK: Duration = Duration::from_millis(5);

/// Loads a target, and returns when it has been measured, or was stopped, and all calls have ended. An open
/// loop that is behind goes on until its last arrival is made, unless it is stopped.
///
/// A record that an earlier run on the same store has returned is continued; without one, the store must not
/// hold any of the workload's keys if it is to be checked afterwards.
///
/// Blocks the calling thread, which is the one that everything runs on.
pub fn run<T: Target>(
    workload: &Workload,
    target: &T,
    control: &Control,
    record: Option<Record>,
) -> Result<Report, WorkloadError> {
    workload.check()?;
    let mut record = record.unwrap_or_else(|| Record::new(workload.key_prefix));
    let recipe = record.begin(workload)?;
    let executor = Rc::new(LocalExecutor::new());
    let callers = smol::block_on(executor.run(connect(workload, target, &executor, recipe.first)))?;
    let run = Rc::new(Run::new(workload, recipe, control.clone(), record));
    let pacer = run.pacer(workload).map(Rc::new);
    let tasks = spawn(workload, &executor, &callers, &run, pacer.as_ref());
    let mut beside = vec![executor.spawn(keep_time(run.clone(), pacer.clone()))];
    beside.extend(pacer.clone().map(|pacer| executor.spawn(async move { pacer.issue().await })));
    let whole = run.clone();
    // A task, so that it is not polled whenever another one is.
    let main = executor.spawn(async move {
        for task in tasks {
            task.await;
        }
        whole.over().await;
        for task in beside {
            task.cancel().await;
        }
    });
    smol::block_on(executor.run(main));
    let next = callers.iter().map(|caller| caller.sequence.get()).max().unwrap_or_default();
    drop((callers, executor));
    let run = Rc::into_inner(run).expect("every task has ended");
    let pacer = pacer.map(|pacer| Rc::into_inner(pacer).expect("every task has ended"));
    Ok(run.report(pacer, next))
}

/// Opens all connections.
async fn connect<T: Target>(
    workload: &Workload,
    target: &T,
    executor: &Rc<LocalExecutor<'static>>,
    first: u64,
) -> Result<Vec<Rc<Caller<T::Connection>>>, WorkloadError> {
    let mut callers = Vec::new();
    for number in 0..workload.clients {
        let connection = target
            .connect(number, executor)
            .await
            .map_err(|error| WorkloadError::Connect { client: number, error })?;
        callers.push(Rc::new(Caller { number, connection, sequence: Cell::new(first) }));
    }
    Ok(callers)
}

/// Starts the tasks that call: neighbours are of different clients, so that arrivals go round all clients.
fn spawn<C: Connection + 'static>(
    workload: &Workload,
    executor: &LocalExecutor<'static>,
    callers: &[Rc<Caller<C>>],
    run: &Rc<Run>,
    pacer: Option<&Rc<Pacer>>,
) -> Vec<smol::Task<()>> {
    let callers = (0..workload.in_flight).flat_map(|_| callers).cloned();
    let task = |(number, caller)| executor.spawn(call(caller, run.clone(), pacer.cloned(), number));
    callers.enumerate().map(task).collect()
}

/// One connection.
struct Caller<C> {
    number: u32,
    connection: C,
    sequence: Cell<u64>,
}

/// What all tasks of a run share.
struct Run {
    control: Control,
    prefix: KeyPrefix,
    recipe: Recipe,
    start: Instant,
    window: Window,
    /// When the run was seen to be stopped.
    stopped: Cell<Option<Instant>>,
    tally: RefCell<Tally>,
}

impl Run {
    fn new(workload: &Workload, recipe: Recipe, control: Control, record: Record) -> Self {
        let start = Instant::now();
        let begin = start + workload.warmup;
        let window = Window { begin, end: begin + workload.duration };
        let is_open_loop = matches!(workload.arrivals, Arrivals::Open { .. });
        let tally = RefCell::new(Tally::new(start, window, is_open_loop, record));
        let prefix = workload.key_prefix;
        Self { control, prefix, recipe, start, window, stopped: Cell::new(None), tally }
    }

    /// The pacer of an open loop.
    fn pacer(&self, workload: &Workload) -> Option<Pacer> {
        let Arrivals::Open { per_second, spacing } = workload.arrivals else { return None };
        let schedule = Schedule::new(per_second, spacing, workload.seed, self.window.end - self.start);
        Some(Pacer::new(self.start, schedule, (workload.clients * workload.in_flight) as usize))
    }

    /// Waits until the measured time is over, or the run is stopped.
    async fn over(&self) {
        loop {
            let now = Instant::now();
            if now >= self.window.end || self.control.is_stopped() {
                return;
            }
            Timer::at(self.window.end.min(now + TICK)).await;
        }
    }

    /// Makes up the next call of a client.
    fn next_call<C>(&self, caller: &Caller<C>, value: &mut [u8]) -> (CallId, Content) {
        let id = CallId { client: caller.number, sequence: caller.sequence.get() };
        caller.sequence.set(id.sequence + 1);
        (id, self.recipe.content(id, value))
    }

    fn report(self, pacer: Option<Pacer>, next: u64) -> Report {
        let Window { begin, end } = self.window;
        let ended = self.stopped.get().unwrap_or_else(Instant::now).min(end);
        let left = pacer.map_or(0, |pacer| pacer.left(begin, ended));
        let elapsed = ended.saturating_duration_since(begin);
        let mut report = self.tally.into_inner().report(elapsed, left);
        report.record.end(next);
        report
    }
}

/// Makes calls until there are none to make: in an open loop those that the pacer gives it, otherwise one
/// after the other.
///
/// One function, as a call's future is large: each function around it would hold, and move, a copy more.
async fn call<C: Connection>(caller: Rc<Caller<C>>, run: Rc<Run>, pacer: Option<Rc<Pacer>>, task: usize) {
    let mut value = vec![0; run.recipe.value_bytes_max()];
    let mut free_since = None;
    while !run.control.is_stopped() {
        let arrival = match &pacer {
            None => None,
            Some(pacer) => match pacer.next(task, free_since).await {
                None => return,
                due => due,
            },
        };
        let (id, content) = run.next_call(&caller, &mut value);
        let sent = Instant::now();
        let intended = arrival.map_or(sent, |arrival| arrival.intended);
        if intended >= run.window.end {
            return;
        }
        run.tally.borrow_mut().begin(arrival, sent);
        let key = key(&run.prefix, content.number);
        let result = match content.kind {
            Kind::Write(length) => caller.connection.write(&key, &value[..length]).await,
            Kind::Read => caller.connection.read(&key).await.map(|()| None),
        };
        let ended = Instant::now();
        let is_acknowledged = result.is_ok();
        run.tally.borrow_mut().end(&Call { id, content, intended, sent, ended }, result);
        free_since = Some(ended);
        if is_acknowledged {
            run.control.acknowledge();
        } else if pacer.is_none() {
            Timer::after(FAILURE_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        }
    }
}

/// Says when measuring begins, shows each second when it is over, and passes on that the run was stopped.
async fn keep_time(run: Rc<Run>, pacer: Option<Rc<Pacer>>) {
    let mut shown = Shown { at: run.start, acknowledged: 0, seconds: 0 };
    loop {
        let now = Instant::now();
        if run.control.is_stopped() {
            run.stopped.set(Some(now));
            pacer.inspect(|pacer| pacer.close());
            return;
        }
        if now >= run.window.begin {
            run.control.measure_since(run.window.begin);
        }
        shown.update(&run, now);
        let tick = now + TICK;
        Timer::at(if now < run.window.begin { tick.min(run.window.begin) } else { tick }).await;
    }
}

/// What was shown last.
struct Shown {
    at: Instant,
    acknowledged: u64,
    /// Seconds that were over.
    seconds: usize,
}

impl Shown {
    /// Shows the last second that is over, once.
    fn update(&mut self, run: &Run, now: Instant) {
        let tally = run.tally.borrow();
        let seconds = tally.series().number(now);
        if seconds == self.seconds {
            return;
        }
        let Second { p50_us, p99_us, .. } = tally.series().second(seconds - 1);
        let acknowledged = run.control.acknowledged();
        let per_second = (acknowledged - self.acknowledged) as f64 / (now - self.at).as_secs_f64();
        run.control.show(Live { per_second, p50_us, p99_us });
        *self = Self { at: now, acknowledged, seconds };
    }
}
