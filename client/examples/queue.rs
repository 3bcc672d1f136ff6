//! A queue of jobs for any number of workers: each job is done by one of them.
//!
//! ```sh
//! export SERVERS=127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403
//! cargo run -p quorate-client --example queue -- $SERVERS work anna &
//! cargo run -p quorate-client --example queue -- $SERVERS work ben &
//! cargo run -p quorate-client --example queue -- $SERVERS add wash dry iron
//! ```
//!
//! - A job is a key below `jobs/`, and a worker hears of it by a watch.
//! - Who first sets the key below `claims/` has it: a compare-and-set on absence. Claims stay, so that a worker which
//!   hears of the job later does not do it again.
//! - A job is removed in one batch with the worker's place in the watch. So a worker that was killed goes on where it
//!   was; the one job that it had claimed and not finished it does again.
//!
//! Left out: claims of workers that never come back, and the removal of old claims.

use std::env;
use std::time::Duration;

use quorate_client::{Client, Error, Expected, Mutation, Refusal, SessionToken, prefix};

const JOBS: &str = "jobs/";

struct Worker<'a> {
    client: &'a Client,
    name: &'a str,
}

impl Worker<'_> {
    /// Works until something fails.
    async fn work(&self) -> Result<(), Error> {
        let mut place = self.begin().await?;
        loop {
            match self.follow(place).await {
                // The worker was away for so long that nobody knows what it missed: it looks at what is there.
                Err(Error::Refused(Refusal::HistoryLost { .. })) => place = self.look().await?,
                ended => return ended,
            }
        }
    }

    /// Where the worker goes on: where it was, or behind what is there now.
    async fn begin(&self) -> Result<SessionToken, Error> {
        let stored = self.client.get(self.place()).await?.value;
        match stored.and_then(|stored| String::from_utf8_lossy(&stored.value).parse().ok()) {
            Some(place) => {
                eprintln!("{} goes on behind {place}", self.name);
                Ok(place)
            }
            None => self.look().await,
        }
    }

    /// Does what is there, and says from where on the rest is. A job that comes meanwhile may be met twice, which its
    /// claim makes harmless.
    async fn look(&self) -> Result<SessionToken, Error> {
        let place = self.client.get(self.place()).await?.token;
        eprintln!("{} begins, and looks at all jobs", self.name);
        let mut jobs = self.client.scan(prefix(JOBS.as_bytes()));
        while let Some(job) = jobs.next().await {
            self.take(&String::from_utf8_lossy(&job?.key), place).await?;
        }
        Ok(place)
    }

    async fn follow(&self, place: SessionToken) -> Result<(), Error> {
        let mut watch = self.client.watch(prefix(JOBS.as_bytes())).after(place);
        while let Some(change) = watch.next().await {
            let change = change?;
            if change.value.is_some() {
                let place = watch.token().unwrap_or(place);
                self.take(&String::from_utf8_lossy(&change.key), place).await?;
            }
        }
        Ok(())
    }

    /// Does a job, if it is this worker's.
    async fn take(&self, job: &str, place: SessionToken) -> Result<(), Error> {
        let job_name = job.strip_prefix(JOBS).unwrap_or(job);
        if self.claim(job_name).await? {
            println!("{} does {job_name}", self.name);
            let place_key = self.place();
            let place = place.to_string();
            let done = vec![
                Mutation::Delete { key: job.as_bytes() },
                Mutation::Set { key: place_key.as_bytes(), value: place.as_bytes() },
            ];
            self.client.batch(done).await?;
        }
        Ok(())
    }

    /// Whether the job is this worker's, and not done yet.
    async fn claim(&self, job_name: &str) -> Result<bool, Error> {
        let key = format!("claims/{job_name}");
        if self.client.compare_and_set(&key, Expected::Absent, self.name).await?.applied() {
            return Ok(true);
        }
        let owner = self.client.get(&key).await?.value;
        let is_mine = owner.is_some_and(|owner| owner.value == self.name.as_bytes());
        // Claimed before it was killed: it is done if the job has gone.
        Ok(is_mine && self.client.get(format!("{JOBS}{job_name}")).await?.value.is_some())
    }

    /// The key of its place in the watch.
    fn place(&self) -> String {
        format!("places/{}", self.name)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    smol::block_on(async {
        match arguments.as_slice() {
            [servers, "add", jobs @ ..] => {
                let client = Client::connect(servers.split(','))?;
                for job in jobs {
                    client.set(format!("{JOBS}{job}"), "").await?;
                }
                client.close().await;
                Ok(())
            }
            [servers, "work", name] => {
                let client = Client::connect(servers.split(','))?.with_deadline(Duration::from_secs(10));
                Ok(Worker { client: &client, name }.work().await?)
            }
            _ => Err("usage: queue SERVERS add JOB… | work NAME".into()),
        }
    })
}
