//! One suite from start to verdict.

use std::sync::{Condvar, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::in_guest;
use crate::paths;
use crate::results::Results;
use crate::scenario::{Mode, Ports, Scenario, Transport, guest_environment};
use crate::target::Target;
use crate::vm::{Share, Vm, image};

/// How often the guest's requests are looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Whether the guest is to test its own kernel's target instead of caisson: it proves the suites' checks themselves.
fn self_test() -> bool {
    std::env::var("CAISSON_INTEROP_TARGET").is_ok_and(|value| value == "nvmet")
}

/// Runs a suite and prints its results.
///
/// # Panics
/// With every reason, when it did not pass: this is what the tests call.
pub fn run(scenario: &Scenario) {
    let _turn = Turn::take();
    println!();
    let began = Instant::now();
    let title = scenario.title();
    match try_run(scenario) {
        Ok(results) => {
            let faults = results.faults(self_test());
            for name in &results.passed {
                println!("ok {title} {name}");
            }
            for what in &results.skipped {
                println!("skip {title} {what}");
            }
            for what in &results.failed {
                println!("not ok {title} {what}");
            }
            println!(
                "{}: {} ok, {} skipped, {} failed, {:.0} s",
                title,
                results.passed.len(),
                results.skipped.len(),
                results.failed.len(),
                began.elapsed().as_secs_f32()
            );
            assert!(faults.is_empty(), "{title}:\n  {}", faults.join("\n  "));
        }
        Err(error) => panic!("{title}: {error}"),
    }
}

fn try_run(scenario: &Scenario) -> Result<Results, String> {
    let text = |error: std::io::Error| error.to_string();
    let image = image(scenario.transport == Transport::Iwarp)?;
    let folder = paths::suite_folder(&scenario.title()).map_err(text)?;
    let guest = scenario.in_guest();
    let (ports, mut target) = if self_test() && scenario.mode != Mode::Programs {
        (Ports::in_guest(scenario), None)
    } else if guest {
        (Ports::pick(scenario), None)
    } else {
        let ports = Ports::pick(scenario);
        let target = Target::start(scenario, &ports, &folder.join("target"))?;
        (ports, Some(target))
    };
    let mut environment = guest_environment(scenario, &ports, self_test());
    let shared = folder.join("share");
    if scenario.mode == Mode::Programs {
        environment += &in_guest::lay_out_programs(&shared).map_err(text)??;
    } else if guest && !self_test() {
        environment += &in_guest::lay_out(scenario, &ports, &shared).map_err(text)??;
    }
    let mut share = Share::create(shared, scenario.suite, &environment).map_err(text)?;
    let memory = match (scenario.mode, guest) {
        // A thousand namespaces in memory that is registered.
        (Mode::Programs, _) => 3072,
        (_, true) => 2048,
        (_, false) => 1024,
    };
    let mut vm = Vm::boot(&image, &share, scenario.limit, memory).map_err(text)?;

    let status = loop {
        if let Some(request) = share.request().map_err(text)? {
            let answer = match target.as_mut().map(|target| target.act(&request)) {
                Some(Ok(answer)) => answer,
                Some(Err(why)) => format!("failed: {why}"),
                None => "failed: there is no target outside the guest".into(),
            };
            share.answer(&answer).map_err(text)?;
        } else if let Some(status) = vm.ended().map_err(text)? {
            break status;
        }
        sleep(LOOK);
    };

    let mut results = Results::parse(&share.results());
    if let Some(Err(why)) = target.map(Target::stop) {
        results.failed.push(format!("target-ends-cleanly: {why}"));
    }
    if status != 0 {
        let console = share.console();
        let tail: Vec<&str> = console.lines().rev().take(15).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        results.failed.push(format!("guest ended with {status}; its console's end:\n{}", tail.join("\n")));
    }
    Ok(results)
}

/// A core, for a guest emulates its processors on one; a target beside it wants a quarter of another. So many suites run at once as the
/// machine has cores, whatever the test runner's number of threads.
struct Turn;

static BUSY: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

impl Turn {
    fn take() -> Self {
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        let mut busy = BUSY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while *busy >= most {
            busy = FREED.wait(busy).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        *busy += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *BUSY.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) -= 1;
        FREED.notify_one();
    }
}
