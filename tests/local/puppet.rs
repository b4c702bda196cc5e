//! A client in a process of its own, that does what it is told on its standard input, and can be killed and stopped.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::lent::{Gate, Kv, nhd, told};
use kvtier_client::local::{
    AcquireChain, Acquired, GpuMemory, Lengths, LoadChain, Loading, ReserveChain, SaveChain, Slot,
};
use kvtier_client::{LocalClient, LocalOptions, SpaceDigest};
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};
use rustix::process::{Pid, Signal, kill_process};

/// What answers begin with, among what the test harness prints.
const MARK: &str = "puppet: ";
const PATIENCE: Duration = Duration::from_secs(30);

/// The process. Killed when dropped.
pub struct Puppet {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Puppet {
    /// Starts one that is attached as a writer.
    pub fn start(world: &World) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["puppet::puppet", "--exact", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("this binary runs");
        let (sender, answers) = channel();
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let follow = move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once(MARK) {
                    // The test may have ended.
                    sender.send(answer.to_owned()).ok();
                }
            }
        };
        std::thread::Builder::new().spawn(follow).expect("a thread can be had");
        let orders = child.stdin.take().expect("piped");
        let mut puppet = Self { child, orders, answers };
        let path = world.daemon.endpoints().local.clone().expect("on");
        assert_eq!(puppet.ask(&format!("attach {} {}", path.display(), super::digest(world))), "attached");
        puppet
    }

    /// Tells it what to do, and waits until it has.
    #[track_caller]
    pub fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }

    /// Has it lend memory of its own behind a gate of this process.
    pub fn lend(&mut self, gate: &Gate) {
        self.ask(&format!("lend {} {}", std::process::id(), gate.exit.as_raw_fd()));
    }

    /// Tells it what to do.
    pub fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("it reads");
    }

    #[track_caller]
    pub fn answer(&self) -> String {
        self.answers.recv_timeout(PATIENCE).expect("it answers")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("our child can be signalled");
    }

    pub fn kill(mut self) {
        self.child.kill().expect("our child can be killed");
        self.child.wait().expect("and waited for");
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
#[ignore = "not a test: the client process of the others"]
fn puppet() {
    let mut dancer = Dancer::default();
    for order in std::io::stdin().lines().map_while(Result::ok) {
        let answer = dancer.obey(&order);
        println!("\n{MARK}{answer}");
    }
}

#[derive(Default)]
struct Dancer {
    client: Option<(LocalClient, SpaceDigest)>,
    chain: Vec<Block>,
    slots: Vec<Slot>,
    acquired: Option<Acquired>,
    lent: Option<(Kv, GpuMemory)>,
    loading: Option<Loading>,
}

impl Dancer {
    fn obey(&mut self, order: &str) -> String {
        let words: Vec<&str> = order.split_whitespace().collect();
        match words[..] {
            ["attach", path, space] => {
                let bytes: Vec<u8> =
                    (0..32).map(|at| u8::from_str_radix(&space[at * 2..at * 2 + 2], 16).expect("hex")).collect();
                let client = LocalClient::connect(path, LocalOptions::writer("puppet", "test")).expect("attached");
                self.client = Some((client, SpaceDigest(bytes.try_into().expect("32 bytes"))));
                "attached".to_owned()
            }
            ["reserve", name, count, bytes] => {
                self.chain = chain(name, count, bytes);
                let (client, space) = self.client();
                let names = keys(&self.chain);
                let lengths = Lengths::All(self.chain[0].payload.len() as u32);
                let wanted = ReserveChain { lengths, ..ReserveChain::new(space, &names, 0) };
                self.slots = client.reserve(&wanted).expect("answered");
                format!("{} slots", self.slots.iter().filter(|slot| matches!(slot, Slot::Write(_))).count())
            }
            ["write"] => {
                for (slot, block) in self.slots.iter_mut().zip(&self.chain) {
                    if let Slot::Write(reservation) = slot {
                        reservation.copy_from_slice(&block.payload);
                    }
                }
                "written".to_owned()
            }
            ["commit"] => {
                let (client, _) = self.client();
                let slots = std::mem::take(&mut self.slots);
                let written = slots.into_iter().filter_map(|slot| match slot {
                    Slot::Write(reservation) => Some(reservation),
                    _ => None,
                });
                let committed = client.commit(written).map(|all| all.into_iter().next());
                format!("{committed:?}").chars().take(200).collect()
            }
            ["acquire", name, count, bytes, lease_ms] => {
                self.chain = chain(name, count, bytes);
                let (client, space) = self.client();
                let names = keys(&self.chain);
                let lease = Duration::from_millis(lease_ms.parse().expect("a number"));
                let wanted = AcquireChain { lease, ..AcquireChain::new(space, &names) };
                let acquired = client.acquire(&wanted).expect("answered");
                let count = acquired.len();
                self.acquired = Some(acquired);
                format!("{count} blocks")
            }
            ["check"] => {
                let acquired = self.acquired.as_ref().expect("acquired");
                let right = (0..acquired.len()).all(|at| acquired.bytes(at) == Some(&self.chain[at].payload[..]));
                format!("right {right} intact {}", acquired.all_intact())
            }
            _ => self.obey_about_gpu(&words),
        }
    }

    fn obey_about_gpu(&mut self, words: &[&str]) -> String {
        match *words {
            // Its own memory, behind the gate of the process that it was told of.
            ["lend", process, gate] => {
                let gate = std::fs::File::open(format!("/proc/{process}/fd/{gate}")).expect("a pipe");
                let (layout, sizes) = nhd(4);
                let kv = Kv::new(layout, sizes, 7);
                let gate = PipeReader::from(OwnedFd::from(gate));
                let handles = kv.handles(Some(&gate));
                let lent = self.client().0.import_gpu_memory(0, &handles, &told(&kv.layout)).expect("lent");
                self.lent = Some((kv, lent));
                "lent".to_owned()
            }
            ["load", name, count] => {
                let names = keys(&chain(name, count, "16384"));
                let blocks: Vec<u64> = (0..names.len() as u64).collect();
                let (_, space) = self.client();
                let lent = &self.lent.as_ref().expect("lent").1;
                let wanted = LoadChain { layer_ends: &[1, 4], ..LoadChain::new(space, &names, &blocks) };
                let loading = lent.load(&wanted).expect("answered");
                let count = loading.len();
                self.loading = Some(loading);
                format!("{count} blocks")
            }
            ["save" | "save-to-pool", name, count] => {
                let names = keys(&chain(name, count, "16384"));
                let blocks: Vec<u64> = (0..names.len() as u64).collect();
                let (_, space) = self.client();
                let lent = &self.lent.as_ref().expect("lent").1;
                let to_pool = words[0] == "save-to-pool";
                let saved = lent.save(&SaveChain { to_pool, ..SaveChain::new(space, &names, &blocks) });
                format!("{saved:?}").chars().take(200).collect()
            }
            _ => panic!("no such order: {words:?}"),
        }
    }

    fn client(&self) -> (LocalClient, SpaceDigest) {
        self.client.clone().expect("attached")
    }
}

fn chain(name: &str, count: &str, bytes: &str) -> Vec<Block> {
    Block::chain(name, count.parse().expect("a number"), bytes.parse().expect("a number"))
}
