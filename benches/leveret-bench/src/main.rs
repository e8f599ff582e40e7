//! A load generator for any AMQP 0-9-1 broker: rates, latencies, and the broker's CPU per message.
#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a command line tool whose output is figures"
)]

mod connection;
mod cpu;
mod options;
mod run;
mod wire;

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;

use connection::{CHANNEL, Connection, Error};
use options::Options;
use run::{Consumed, Shared, histogram};

fn main() -> ExitCode {
    let options = Options::parse();
    match bench(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The figures of a measured window.
struct Report {
    seconds: f64,
    published: u64,
    confirmed: u64,
    refused: u64,
    consumed: u64,
    broker_us: f64,
    own_us: f64,
    confirm: Histogram<u64>,
    consume: Histogram<u64>,
    disorder: u64,
    repeats: u64,
    gaps: u64,
}

#[derive(Clone, Copy)]
struct Counts {
    published: u64,
    confirmed: u64,
    consumed: u64,
}

fn counts(shared: &Shared) -> Counts {
    Counts {
        published: shared.published.load(Ordering::Relaxed),
        confirmed: shared.confirmed.load(Ordering::Relaxed),
        consumed: shared.consumed.load(Ordering::Relaxed),
    }
}

fn bench(options: &Options) -> Result<(), Error> {
    prepare(options)?;
    let shared = Shared::new();
    let quota = |number: u32| {
        let publishers = u64::from(options.publishers);
        let extra = u64::from(u64::from(number) < options.count % publishers);
        (options.count > 0).then(|| options.count / publishers + extra)
    };
    let mut publishers = Vec::new();
    let mut consumers = Vec::new();
    if !options.publish_only {
        for number in 0..options.consumers {
            let (options, shared) = (options.clone(), shared.clone());
            consumers.push(std::thread::spawn(move || {
                run::consume(&options, &shared, number)
            }));
        }
    }
    if !options.consume_only {
        for number in 0..options.publishers {
            let (options, shared, quota) = (options.clone(), shared.clone(), quota(number));
            let work = move || run::publish(&options, &shared, number, quota);
            publishers.push(std::thread::spawn(work));
        }
    }
    let by_count = options.count > 0 || options.consume_only;
    let done = |shared: &Shared| {
        let publishing = publishers.iter().any(|thread| !thread.is_finished());
        let failed =
            !options.consume_only && consumers.iter().any(std::thread::JoinHandle::is_finished);
        let consuming = if options.consume_only {
            consumers.iter().any(|thread| !thread.is_finished())
        } else {
            !options.publish_only && counts(shared).consumed < options.count && by_count
        };
        failed || (!publishing && !consuming)
    };
    let warmup = if by_count { 0 } else { options.warmup };
    watch(options, &shared, Duration::from_secs(warmup), true, &done);
    shared.measuring.store(true, Ordering::Relaxed);
    let (start, before) = (Instant::now(), counts(&shared));
    let (broker, own) = (cpu::of(&options.pids), cpu::own());
    let limit = if by_count {
        Duration::MAX
    } else {
        Duration::from_secs(options.seconds)
    };
    watch(options, &shared, limit, false, &done);
    let (seconds, after) = (start.elapsed().as_secs_f64(), counts(&shared));
    let (broker, own) = (cpu::of(&options.pids) - broker, cpu::own() - own);
    shared.measuring.store(false, Ordering::Relaxed);
    shared.stop.store(true, Ordering::Relaxed);
    let mut report = Report {
        seconds,
        published: after.published - before.published,
        confirmed: after.confirmed - before.confirmed,
        refused: shared.refused.load(Ordering::Relaxed),
        consumed: after.consumed - before.consumed,
        broker_us: 0.0,
        own_us: 0.0,
        confirm: histogram(),
        consume: histogram(),
        disorder: 0,
        repeats: 0,
        gaps: 0,
    };
    let messages = report.published.max(report.consumed).max(1) as f64;
    report.broker_us = broker * 1e6 / messages;
    report.own_us = own * 1e6 / messages;
    for thread in publishers {
        let latency = thread.join().map_err(|_| Error::Unexpected((60, 40)))??;
        add(&mut report.confirm, &latency);
    }
    for thread in consumers {
        let Consumed {
            latency,
            disorder,
            repeats,
            gaps,
        } = thread.join().map_err(|_| Error::Unexpected((60, 60)))??;
        add(&mut report.consume, &latency);
        report.disorder += disorder;
        report.repeats += repeats;
        report.gaps += gaps;
    }
    if options.delete {
        each_queue(options, |connection, queue| {
            connection.out.method(CHANNEL, 50, 40, |out| {
                out.u16(0);
                out.short(queue);
                out.u8(0);
            });
            connection.wait((50, 41), |_| ())
        })?;
    }
    print(options, &report);
    Ok(())
}

fn add(to: &mut Histogram<u64>, more: &Histogram<u64>) {
    if let Err(error) = to.add(more) {
        unreachable!("histograms have the same bounds: {error}");
    }
}

fn each_queue(
    options: &Options,
    mut work: impl FnMut(&mut Connection, &str) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut connection = Connection::open(options)?;
    for number in 0..options.queues {
        work(
            &mut connection,
            &format!("{}{number}", options.queue_prefix),
        )?;
    }
    Ok(())
}

fn prepare(options: &Options) -> Result<(), Error> {
    each_queue(options, |connection, queue| {
        run::declare(connection, options, queue)?;
        if options.purge {
            connection.out.method(CHANNEL, 50, 30, |out| {
                out.u16(0);
                out.short(queue);
                out.u8(0);
            });
            connection.wait((50, 31), |_| ())?;
        }
        Ok(())
    })
}

/// Prints a line each second until the time is over or the work is done.
fn watch(
    options: &Options,
    shared: &Shared,
    limit: Duration,
    warming: bool,
    done: &impl Fn(&Shared) -> bool,
) {
    let start = Instant::now();
    let (mut last, mut at) = (counts(shared), start);
    while start.elapsed() < limit && !done(shared) {
        std::thread::sleep(Duration::from_millis(20).min(limit));
        let span = at.elapsed().as_secs_f64();
        if span >= 1.0 {
            let now = counts(shared);
            let rate = |now: u64, last: u64| (now - last) as f64 / span;
            if !options.json {
                println!(
                    "{}published {:>9.0}/s  confirmed {:>9.0}/s  consumed {:>9.0}/s",
                    if warming { "(warming up) " } else { "" },
                    rate(now.published, last.published),
                    rate(now.confirmed, last.confirmed),
                    rate(now.consumed, last.consumed),
                );
            }
            (last, at) = (now, Instant::now());
        }
    }
}

fn print(options: &Options, report: &Report) {
    let rate = |count: u64| count as f64 / report.seconds;
    if options.json {
        let latency = |h: &Histogram<u64>| {
            format!(
                "{{\"p50\":{},\"p90\":{},\"p99\":{},\"p999\":{},\"max\":{}}}",
                h.value_at_quantile(0.5),
                h.value_at_quantile(0.9),
                h.value_at_quantile(0.99),
                h.value_at_quantile(0.999),
                h.max()
            )
        };
        println!(
            "{{\"seconds\":{:.3},\"published_per_s\":{:.0},\"confirmed_per_s\":{:.0},\"consumed_per_s\":{:.0},\
             \"refused\":{},\"broker_cpu_us_per_message\":{:.3},\"own_cpu_us_per_message\":{:.3},\
             \"confirm_us\":{},\"consume_us\":{},\"disorder\":{},\"repeats\":{},\"gaps\":{}}}",
            report.seconds,
            rate(report.published),
            rate(report.confirmed),
            rate(report.consumed),
            report.refused,
            report.broker_us,
            report.own_us,
            latency(&report.confirm),
            latency(&report.consume),
            report.disorder,
            report.repeats,
            report.gaps,
        );
        return;
    }
    println!(
        "published {:.0}/s, confirmed {:.0}/s ({} refused), consumed {:.0}/s in {:.1} s",
        rate(report.published),
        rate(report.confirmed),
        report.refused,
        rate(report.consumed),
        report.seconds
    );
    for (name, h) in [("confirm", &report.confirm), ("consume", &report.consume)] {
        if !h.is_empty() {
            println!(
                "publish to {name}: p50 {} us, p90 {}, p99 {}, p99.9 {}, max {}",
                h.value_at_quantile(0.5),
                h.value_at_quantile(0.9),
                h.value_at_quantile(0.99),
                h.value_at_quantile(0.999),
                h.max()
            );
        }
    }
    if !options.pids.is_empty() {
        println!("broker CPU {:.2} us per message", report.broker_us);
    }
    println!("own CPU {:.2} us per message", report.own_us);
    if options.verify {
        println!(
            "{} out of order, {} repeated, {} missing",
            report.disorder, report.repeats, report.gaps
        );
    }
}
