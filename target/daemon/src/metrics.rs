//! `/metrics`: the target's counters in Prometheus's text form.
//!
//! Costs nothing but at a scrape: the core's per-queue counters, the reactors' and the volumes' are read then, and put
//! into metric families. Names and labels are listed in docs/management.md and do not change meaning once released.

use crate::daemon::Daemon;
use crate::refusal::{Cause, Refusal};
use caisson_core::{HISTOGRAMS, OpClass, Totals, bucket_end};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

/// The content type of what [`text`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels of one sample, sorted by name.
type Labels<'a> = &'a [(&'a str, &'a str)];

/// Families being gathered.
struct Gather(Vec<MetricFamily>);

fn labels(pairs: Labels<'_>) -> Vec<LabelPair> {
    pairs
        .iter()
        .map(|(name, value)| {
            let mut l = LabelPair::default();
            l.set_name((*name).to_string());
            l.set_value((*value).to_string());
            l
        })
        .collect()
}

impl Gather {
    /// A family, with the samples that `fill` pushes; left out when there are none.
    fn family(&mut self, name: &str, help: &str, kind: MetricType, fill: impl FnOnce(&mut Vec<Metric>)) {
        let mut metrics = Vec::new();
        fill(&mut metrics);
        if metrics.is_empty() {
            return;
        }
        let mut f = MetricFamily::default();
        f.set_name(name.to_string());
        f.set_help(help.to_string());
        f.set_field_type(kind);
        f.set_metric(metrics);
        self.0.push(f);
    }

    fn counter(&mut self, name: &str, help: &str, fill: impl FnOnce(&mut dyn FnMut(Labels<'_>, u64))) {
        self.family(name, help, MetricType::COUNTER, |out| {
            fill(&mut |l, v| {
                let mut c = Counter::default();
                c.set_value(v as f64);
                let mut m = Metric::from_label(labels(l));
                m.set_counter(c);
                out.push(m);
            });
        });
    }

    fn gauge(&mut self, name: &str, help: &str, fill: impl FnOnce(&mut dyn FnMut(Labels<'_>, f64))) {
        self.family(name, help, MetricType::GAUGE, |out| {
            fill(&mut |l, v| {
                let mut g = Gauge::default();
                g.set_value(v);
                let mut m = Metric::from_label(labels(l));
                m.set_gauge(g);
                out.push(m);
            });
        });
    }
}

/// A histogram in seconds. Of the core's 97 buckets every second is shown: two for each doubling are enough to see a
/// percentile move by a fifth, and keep a scrape of many hosts small.
fn histogram(buckets: &[u64], sum_ns: u64) -> Histogram {
    let mut h = Histogram::default();
    let mut count = 0;
    let mut shown = Vec::new();
    for (i, n) in buckets.iter().enumerate() {
        count += n;
        if i % 2 == 0
            && let Some(end) = bucket_end(i)
        {
            let mut b = Bucket::default();
            b.set_upper_bound(end as f64 / 1e9);
            b.set_cumulative_count(count);
            shown.push(b);
        }
    }
    h.set_bucket(shown);
    h.set_sample_count(count);
    h.set_sample_sum(sum_ns as f64 / 1e9);
    h
}

/// What each histogram of the core counts.
const HISTOGRAM_NAMES: [&str; HISTOGRAMS] = ["read", "write", "other"];

/// What a host did on a namespace, with its labels.
struct Sample {
    nqn: String,
    nsid: String,
    host: String,
    io: Totals,
}

impl Sample {
    fn labels<'a>(&'a self, op: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
        let mut l = vec![("host", self.host.as_str()), ("namespace", self.nsid.as_str())];
        l.extend(op.map(|op| ("op", op)));
        l.push(("subsystem", self.nqn.as_str()));
        l
    }
}

/// All metrics now.
///
/// # Errors
/// The encoder's, which would be a bug.
pub fn text(d: &Daemon) -> Result<String, Refusal> {
    let mut g = Gather(Vec::new());
    let snapshot = d.snapshot();
    g.gauge("caisson_info", "The program.", |put| put(&[("version", env!("CARGO_PKG_VERSION"))], 1.0));
    g.gauge("caisson_uptime_seconds", "Seconds since the target started.", |put| {
        put(&[], d.uptime().as_secs_f64());
    });
    let mut samples = Vec::new();
    for s in &snapshot.subsystems {
        for n in &s.namespaces {
            for h in &n.hosts {
                samples.push(Sample {
                    nqn: s.nqn.clone(),
                    nsid: n.nsid.to_string(),
                    host: h.host.clone(),
                    io: h.io.clone(),
                });
            }
        }
    }
    io(&mut g, &samples);
    let c = snapshot.counters;
    g.gauge("caisson_queues", "Queues connected now, admin and I/O.", |put| put(&[], c.queues as f64));
    for (name, help, value) in [
        ("caisson_connects_total", "Connect commands that succeeded.", c.connects),
        ("caisson_connects_refused_total", "Connect commands that were refused.", c.refused),
        (
            "caisson_keep_alive_expired_total",
            "Associations that ended for want of a keep-alive.",
            c.keep_alive_expired,
        ),
        ("caisson_aborted_commands_total", "Commands that Abort aborted.", c.aborted),
        ("caisson_failed_commands_total", "Commands answered with an error status.", c.failed_commands),
    ] {
        g.counter(name, help, |put| put(&[], value));
    }
    g.gauge("caisson_controllers", "Hosts connected to a subsystem.", |put| {
        for s in &snapshot.subsystems {
            put(&[("subsystem", &s.nqn)], s.controllers.len() as f64);
        }
        let nqn = crate::model::text::DISCOVERY_NQN;
        put(&[("subsystem", nqn)], snapshot.discovery_controllers.len() as f64);
    });
    g.counter("caisson_media_errors_total", "Media errors since the start.", |put| {
        for s in &snapshot.subsystems {
            put(&[("subsystem", &s.nqn)], s.media_errors);
        }
    });
    g.gauge("caisson_critical_warning", "SMART's critical warning byte.", |put| {
        for s in &snapshot.subsystems {
            put(&[("subsystem", &s.nqn)], s.critical_warning.into());
        }
    });
    volumes(&mut g, d);
    pools(&mut g, d);
    reactors(&mut g, d);
    let mut out = Vec::new();
    TextEncoder::new().encode(&g.0, &mut out).map_err(|e| {
        Refusal::new(
            Cause::System,
            format!("metrics cannot be written: {e}"),
            "report it, with the target's log",
        )
    })?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn io(g: &mut Gather, samples: &[Sample]) {
    g.counter("caisson_io_commands_total", "I/O commands that succeeded.", |put| {
        for s in samples {
            for class in OpClass::ALL {
                if s.io.count(class) > 0 {
                    put(&s.labels(Some(class.name())), s.io.count(class));
                }
            }
        }
    });
    g.counter("caisson_io_bytes_total", "Bytes that hosts read and wrote.", |put| {
        for s in samples {
            put(&s.labels(Some("read")), s.io.bytes_read);
            put(&s.labels(Some("write")), s.io.bytes_written);
        }
    });
    g.counter("caisson_io_errors_total", "I/O commands that failed.", |put| {
        for s in samples {
            put(&s.labels(None), s.io.errors);
        }
    });
    let help = "Time from when the target sees a command to its reply.";
    g.family("caisson_io_latency_seconds", help, MetricType::HISTOGRAM, |out| {
        for s in samples {
            for (i, name) in HISTOGRAM_NAMES.iter().enumerate() {
                if s.io.latency[i].iter().any(|n| *n > 0) {
                    let mut m = Metric::from_label(labels(&s.labels(Some(name))));
                    m.set_histogram(histogram(&s.io.latency[i], s.io.latency_sum[i]));
                    out.push(m);
                }
            }
        }
    });
}

fn volumes(g: &mut Gather, d: &Daemon) {
    let health = d.volume_health();
    g.gauge("caisson_volume_size_bytes", "Size of the volume.", |put| {
        for (name, v) in &health {
            put(&[("volume", name)], v.size as f64);
        }
    });
    g.gauge("caisson_volume_allocated_bytes", "Bytes of the store in use by the volume.", |put| {
        for (name, v) in &health {
            if let Some(bytes) = v.allocated {
                put(&[("volume", name)], bytes as f64);
            }
        }
    });
    g.gauge("caisson_volume_faulty", "1 when the device behind the volume has failed.", |put| {
        for (name, v) in &health {
            put(&[("volume", name)], if v.fault.is_some() { 1.0 } else { 0.0 });
        }
    });
    g.gauge("caisson_volume_requests", "Requests under way at the volume.", |put| {
        for (name, v) in &health {
            put(&[("volume", name)], v.in_flight as f64);
        }
    });
}

fn pools(g: &mut Gather, d: &Daemon) {
    use crate::pools::PoolStatus as P;
    let all = d.pool_status();
    type Size = fn(&P) -> f64;
    let gauges: [(&str, &str, Size); 16] = [
        ("caisson_pool_size_bytes", "Room for data, of all devices.", |p| p.size as f64),
        ("caisson_pool_used_bytes", "Room in use, garbage included.", |p| p.used as f64),
        ("caisson_pool_free_bytes", "What new data may still take.", |p| p.free as f64),
        ("caisson_pool_logical_bytes", "Sizes of all volumes together.", |p| p.logical as f64),
        ("caisson_pool_mapped_bytes", "What hosts wrote and did not give back.", |p| p.mapped as f64),
        ("caisson_pool_unique_bytes", "Unique blocks of that.", |p| p.unique as f64),
        ("caisson_pool_stored_bytes", "What these take, compressed and sealed.", |p| p.stored as f64),
        ("caisson_pool_metadata_bytes", "What tables take on the devices.", |p| p.metadata as f64),
        ("caisson_pool_memory_bytes", "Memory of tables and the index of duplicates.", |p| p.memory as f64),
        ("caisson_pool_faulty", "1 when the pool has failed.", |p| f64::from(u8::from(p.fault.is_some()))),
        (
            "caisson_pool_reseal_running",
            "1 while something is sealed under an earlier key epoch, or may be.",
            |p| f64::from(u8::from(p.reseal.as_ref().is_some_and(|r| r.running))),
        ),
        (
            "caisson_pool_reseal_segments",
            "Segments that the sealing anew has looked at in this round.",
            |p| p.reseal.as_ref().map_or(0.0, |r| f64::from(r.segments)),
        ),
        ("caisson_pool_reseal_left", "Blocks and pages under earlier key epochs, as last counted.", |p| {
            p.reseal.as_ref().and_then(|r| r.left).map_or(0.0, |left| left as f64)
        }),
        ("caisson_pool_map_keys", "Keys of volumes' maps, each of a volume with its copies.", |p| {
            p.map_keys.keys as f64
        }),
        ("caisson_pool_map_keys_erasing", "Of deleted volumes, and not erased yet.", |p| {
            p.map_keys.erasing.len() as f64
        }),
        ("caisson_pool_scrub_running", "1 while a scrub is under way.", |p| {
            f64::from(u8::from(p.scrub.as_ref().is_some_and(|s| s.running)))
        }),
    ];
    for (name, help, pick) in gauges {
        g.gauge(name, help, |put| all.iter().for_each(|(pool, p)| put(&[("pool", pool)], pick(p))));
    }
    let waiting = d.waiting();
    g.gauge(
        "caisson_pool_waiting",
        "1 while a pool waits for its keys, and nothing of it is exported.",
        |put| {
            let mut one = |pool: &str, waits: bool| put(&[("pool", pool)], f64::from(u8::from(waits)));
            all.keys().for_each(|pool| one(pool, false));
            waiting.keys().for_each(|pool| one(pool, true));
        },
    );
    type Count = fn(&P) -> u64;
    let counters: [(&str, &str, Count); 10] = [
        ("caisson_pool_written_blocks_total", "Blocks of 4 KiB that hosts wrote.", |p| {
            p.activity.written_blocks
        }),
        ("caisson_pool_zero_blocks_total", "Of these: all zero.", |p| p.activity.zero_blocks),
        ("caisson_pool_duplicate_blocks_total", "Of these: stored already.", |p| p.activity.duplicate_blocks),
        ("caisson_pool_new_bytes_total", "Bytes of blocks stored, compressed, each once.", |p| {
            p.activity.stored_bytes
        }),
        (
            "caisson_pool_device_bytes_total",
            "Bytes written to the devices; by those of new blocks: the write amplification.",
            |p| p.activity.device_bytes,
        ),
        ("caisson_pool_moved_bytes_total", "Of these: by the cleaner.", |p| p.activity.moved_bytes),
        ("caisson_pool_checkpoint_bytes_total", "Of these: by checkpoints.", |p| p.activity.checkpoint_bytes),
        ("caisson_pool_checkpoints_total", "Checkpoints.", |p| p.activity.checkpoints),
        ("caisson_pool_damaged_total", "Blocks and pages that could not be read.", |p| p.activity.damaged),
        ("caisson_pool_device_errors_total", "Reads that a device of the pool refused.", |p| {
            p.activity.device_errors
        }),
    ];
    for (name, help, pick) in counters {
        g.counter(name, help, |put| all.iter().for_each(|(pool, p)| put(&[("pool", pool)], pick(p))));
    }
}

fn reactors(g: &mut Gather, d: &Daemon) {
    use crate::daemon::ThreadCounts as T;
    let threads = d.plane().threads();
    g.gauge("caisson_connections", "Transport connections now.", |put| {
        for (i, t) in threads.iter().enumerate() {
            put(&[("reactor", &i.to_string())], t.connections as f64);
        }
    });
    type Pick = fn(&T) -> u64;
    let counters: [(&str, &str, Pick); 9] = [
        ("caisson_connections_accepted_total", "Connections accepted.", |t| t.accepted),
        ("caisson_connections_shed_total", "Connections closed because the limit was reached.", |t| t.shed),
        ("caisson_protocol_errors_total", "Connections ended for a protocol error.", |t| t.protocol_errors),
        ("caisson_reactor_turns_total", "Turns of the reactor's loop.", |t| t.turns),
        ("caisson_reactor_syscalls_total", "System calls of the reactor.", |t| t.syscalls),
        ("caisson_reactor_sleeps_total", "Times the reactor slept in the kernel.", |t| t.sleeps),
        ("caisson_received_bytes_total", "Bytes received from hosts.", |t| t.rx_bytes),
        ("caisson_sent_bytes_total", "Bytes sent to hosts.", |t| t.tx_bytes),
        ("caisson_receive_copies_total", "Received chunks copied because buffers were short.", |t| {
            t.copied_rx
        }),
    ];
    for (name, help, pick) in counters {
        g.counter(name, help, |put| {
            for (i, t) in threads.iter().enumerate() {
                put(&[("reactor", &i.to_string())], pick(t));
            }
        });
    }
    let rdma = d.plane().rdma();
    g.counter(
        "caisson_rdma_faults_total",
        "RDMA connections refused or ended before their time, by cause.",
        |put| rdma.faults.iter().for_each(|(cause, n)| put(&[("cause", cause)], *n)),
    );
    g.gauge("caisson_rdma_buffers_in_use", "RDMA buffers that commands and transfers hold now.", |put| {
        rdma.buffers.iter().for_each(|(kind, n)| put(&[("kind", kind)], *n as f64));
    });
    g.gauge("caisson_rdma_buffer_bytes", "RDMA buffers of all threads, by the kind of their pages.", |put| {
        rdma.pages.iter().for_each(|(pages, n)| put(&[("pages", pages)], *n as f64));
    });
    let help = "How long a turn of the reactor's loop took, from its look at what had come to the next.";
    g.family("caisson_reactor_turn_seconds", help, MetricType::HISTOGRAM, |out| {
        for (i, t) in threads.iter().enumerate().filter(|(_, t)| t.turns > 0) {
            let mut m = Metric::from_label(labels(&[("reactor", &i.to_string())]));
            m.set_histogram(histogram(&t.turn_lengths, t.turn_ns));
            out.push(m);
        }
    });
}
