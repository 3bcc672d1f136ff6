//! All cases of a plan, one after the other, each saved when it is done.

use std::path::Path;

use crate::cluster::Program;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::place::Place;
use crate::plan::{Case, Plan, Step};
use crate::report::{Output, Report, Run};
use crate::run;
use crate::verify::Verified;

/// Measures a plan. The report holds what was measured, and is saved, however this ends.
pub async fn measure(
    plan: &Plan,
    data_dir: &Path,
    output: &Output,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let end = measure_cases(plan, data_dir, output, report, interrupt).await;
    report.close(end.as_ref().copied());
    output.save(report)?;
    end
}

async fn measure_cases(
    plan: &Plan,
    data_dir: &Path,
    output: &Output,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    output.save(report)?;
    for step in plan.steps() {
        let run = measure_case(&plan.cases[step.case], step, plan.seed, data_dir, report, interrupt).await;
        output.save(report)?;
        run?;
    }
    Ok(())
}

/// Measures one case in a fresh place, which is kept if somebody will want to look into it.
async fn measure_case(
    case: &Case,
    step: Step,
    seed: u64,
    data_dir: &Path,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let place = Place::new(data_dir)?;
    let run = match run::run(case, step, seed, Program::this()?, &place, interrupt).await {
        Ok(run) => run,
        Err(Failure::Interrupted) => return Err(Failure::Interrupted),
        Err(failure) => {
            let kept = place.keep();
            let what = anyhow::anyhow!("{case}: {failure}\ndata and logs are kept in {}", kept.display());
            return Err(what.into());
        }
    };
    report.runs.push(run.clone());
    judge(case, &run, place)
}

fn judge(case: &Case, run: &Run, place: Place) -> Result<(), Failure> {
    let Some(verified) = &run.verified else { return Err(Failure::Interrupted) };
    if verified.is_clean() {
        return Ok(());
    }
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
