//! All measurements of a plan, one after the other, each saved when it is made.

use std::path::Path;

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::options::LatencyGoal;
use crate::place::{Place, is_full};
use crate::plan::{Arrivals, Case, Spacing, Step};
use crate::progress::Progress;
use crate::report::{Goal, Output, Report, Run, Trial};
use crate::run::{self, Circumstances};
use crate::slo::Search;
use crate::verify::Verified;

/// A part of the asked rate that must be reached for a goal to be kept.
const REACHED_MIN: f64 = 0.98;

/// A report in the making, and what is needed to go on with it.
pub struct Session<'a> {
    /// Below it every run has a directory of its own.
    pub data_dir: &'a Path,
    /// Where the report goes.
    pub output: &'a Output,
    /// What was measured so far.
    pub report: &'a mut Report,
    /// Whether to stop.
    pub interrupt: &'a Interrupt,
    /// Whether to show runs on the whole screen.
    pub live: bool,
}

impl Session<'_> {
    /// Makes the measurements of the report's plan that it does not have yet. What was measured is saved, however
    /// this ends.
    pub async fn measure(mut self) -> Result<(), Failure> {
        let end = self.measure_steps().await;
        self.close(end)
    }

    /// Searches the highest rate at which the plan's only case keeps a goal. Every rate that is tried becomes a
    /// case of the plan, and a run.
    pub async fn search(mut self, goal: LatencyGoal) -> Result<(), Failure> {
        let end = self.search_rates(goal).await;
        self.close(end)
    }

    fn close(self, end: Result<(), Failure>) -> Result<(), Failure> {
        self.report.close(end.as_ref().copied());
        self.output.save(self.report)?;
        end
    }

    async fn measure_steps(&mut self) -> Result<(), Failure> {
        self.output.save(self.report)?;
        let steps = self.report.plan.steps();
        for (position, step) in steps.iter().enumerate() {
            if !self.report.has(*step) {
                let case = self.report.plan.cases[step.case].clone();
                let name = match steps.len() {
                    1 => case.to_string(),
                    all => format!("[{}/{all}] {case}", position + 1),
                };
                self.measure_step(&case, *step, name).await?;
            }
        }
        Ok(())
    }

    async fn search_rates(&mut self, goal: LatencyGoal) -> Result<(), Failure> {
        let case = self.report.plan.cases.remove(0);
        self.report.goal = Some(Goal { goal: goal.to_string(), per_second: None, trials: Vec::new() });
        let mut search = Search::default();
        while let Some(rate) = search.next() {
            let mut case = case.clone();
            case.load.arrivals = Arrivals::Open { per_second: rate, spacing: Spacing::Poisson };
            let step = Step { case: self.report.plan.cases.len(), repeat: 1 };
            self.report.plan.cases.push(case.clone());
            self.measure_step(&case, step, format!("{case}, {rate} calls/s for {goal}")).await?;
            let run = self.report.runs.last().expect("one has just been made");
            let trial = judge_trial(run, rate, &goal);
            search.tried(rate, trial.kept);
            let found = self.report.goal.as_mut().expect("set above");
            found.trials.push(trial);
            found.per_second = search.best();
            self.output.save(self.report)?;
        }
        Ok(())
    }

    /// Makes one measurement in a fresh place, which is kept if somebody will want to look into it.
    async fn measure_step(&mut self, case: &Case, step: Step, name: String) -> Result<(), Failure> {
        let place = Place::new(self.data_dir)?;
        let progress = Progress::new(name, case.load.warmup + case.load.duration, self.live);
        let with = Circumstances {
            step,
            seed: self.report.plan.seed,
            place: &place,
            environment: &self.report.environment,
            interrupt: self.interrupt,
            progress: &progress,
        };
        let run = match run::run(case, &with).await {
            Ok(run) => run,
            Err(failure @ (Failure::Interrupted | Failure::WrongUse(_))) => return Err(failure),
            Err(_) if is_full(self.data_dir) => {
                return Err(Failure::WrongUse(format!(
                    "{case}: the disk of --data-dir {} is full: free some space, choose another, or a shorter --duration",
                    self.data_dir.display()
                )));
            }
            Err(failure) => {
                let kept = place.keep();
                let what = anyhow::anyhow!("{case}: {failure}\ndata and logs are kept in {}", kept.display());
                return Err(what.into());
            }
        };
        drop(progress);
        let judged = judge(case, &run, place);
        self.report.runs.push(run);
        self.output.save(self.report)?;
        judged
    }
}

/// Whether a rate kept the goal: the latency, and nothing refused, lost or left behind.
fn judge_trial(run: &Run, rate: f64, goal: &LatencyGoal) -> Trial {
    let calls =
        if run.case.load.reads < 1.0 { &run.writes } else { run.reads.as_ref().unwrap_or(&run.writes) };
    let reads = run.reads.as_ref();
    let reached = run.writes.per_second + reads.map_or(0.0, |reads| reads.per_second);
    let failed = |calls: &crate::report::Calls| calls.refused + calls.unknown;
    let none_failed = failed(&run.writes) + reads.map_or(0, failed) == 0;
    // Poisson arrivals are as many as chance has it.
    let due = run.generator.scheduled as f64 / run.duration_s.max(f64::MIN_POSITIVE);
    let kept = goal.is_kept(&calls.latency_us) && none_failed && reached >= due * REACHED_MIN;
    Trial {
        asked_per_second: rate,
        per_second: reached,
        latency_us: goal.latency_us(&calls.latency_us),
        kept,
    }
}

fn judge(case: &Case, run: &Run, place: Place) -> Result<(), Failure> {
    if run.interrupted {
        return Err(Failure::Interrupted);
    }
    let Some(verified) = run.verified.as_ref().filter(|verified| !verified.is_clean()) else { return Ok(()) };
    let kept = place.keep();
    let Verified { keys, lost, differing, first } = verified;
    let what = match first {
        Some(first) => format!("{lost} of {keys} keys are lost or wrong, the first: {first}"),
        None => format!("nodes {differing:?} hold other data than the leader"),
    };
    Err(Failure::Lost(format!("{case}: {what}\ndata and logs are kept in {}", kept.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::case;
    use crate::report::sample::run;

    #[test]
    fn a_run_that_lost_a_key_fails_and_keeps_its_data() {
        let parent = tempfile::tempdir().unwrap();
        let mut lossy = run(2);
        let first = Some("node 3, key 5: gone".to_owned());
        lossy.verified = Some(Verified { keys: 99_512, lost: 1, first, ..Verified::default() });
        let place = Place::new(parent.path()).unwrap();
        let path = place.path().to_owned();
        let Err(Failure::Lost(what)) = judge(&case(2), &lossy, place) else { panic!("it passed") };
        assert!(what.contains("1 of 99512 keys") && what.contains("node 3, key 5: gone"), "{what}");
        assert!(path.is_dir() && what.ends_with(&path.display().to_string()), "{what}");
    }

    #[test]
    fn a_clean_run_leaves_nothing_and_a_difference_is_no_clean_run() {
        let parent = tempfile::tempdir().unwrap();
        judge(&case(2), &run(2), Place::new(parent.path()).unwrap()).unwrap();
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
        let mut differing = run(2);
        differing.verified = Some(Verified { differing: vec![2], ..Verified::default() });
        let place = Place::new(parent.path()).unwrap();
        assert!(matches!(judge(&case(2), &differing, place), Err(Failure::Lost(_))));
    }

    #[test]
    fn an_interrupted_run_ends_the_session() {
        let parent = tempfile::tempdir().unwrap();
        let mut cut = run(2);
        (cut.interrupted, cut.verified) = (true, None);
        let place = Place::new(parent.path()).unwrap();
        assert!(matches!(judge(&case(2), &cut, place), Err(Failure::Interrupted)));
    }
}
