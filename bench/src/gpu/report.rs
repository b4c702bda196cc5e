//! What is written: Markdown for people, JSON for machines.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use kvtier_hbm::CopiedFrom;
use kvtier_hbm::gpu::Properties;
use serde_json::{Value, json};

use super::Failure;
use super::ground::Site;

struct Checked {
    name: String,
    seconds: f64,
    failure: Option<String>,
}

/// A figure and what it is compared with.
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: &'static str,
    /// A limit measured in the same run, and what share of it, or how much at most, is asked for.
    pub(super) bar: Option<Bar>,
}

pub(super) enum Bar {
    /// At least this share of that.
    Share { of: f64, least: f64 },
    /// At most.
    AtMost(f64),
}

impl Figure {
    fn is_met(&self) -> Option<bool> {
        self.bar.as_ref().map(|bar| match bar {
            Bar::Share { of, least } => self.value >= of * least,
            Bar::AtMost(most) => self.value <= *most,
        })
    }

    fn words(&self) -> String {
        match &self.bar {
            None => String::new(),
            Some(Bar::Share { of, least }) => {
                format!("{:.2} of {of:.2} {}, bar {least:.2}", self.value / of.max(1e-9), self.unit)
            }
            Some(Bar::AtMost(most)) => format!("bar: at most {most:.0} {}", self.unit),
        }
    }
}

/// Everything a run found.
pub(super) struct Report {
    properties: Properties,
    pretends: Option<&'static str>,
    nvme: Option<String>,
    arena: String,
    /// From which length of a run on the tier has chosen the copy engines.
    chosen: Option<CopiedFrom>,
    checks: Vec<Checked>,
    figures: Vec<Figure>,
}

impl Report {
    pub(super) fn new(site: &Site) -> Self {
        Self {
            properties: site.ground.gpu.properties().clone(),
            pretends: site.pretends,
            nvme: site.nvme.as_ref().err().cloned(),
            arena: site.arena.describe(),
            chosen: None,
            checks: Vec::new(),
            figures: Vec::new(),
        }
    }

    pub(super) fn check(&mut self, name: &str, took: Duration, result: Result<(), String>) {
        let (seconds, failure) = (took.as_secs_f64(), result.err());
        println!("{} {name} ({seconds:.2} s)", if failure.is_none() { "ok    " } else { "FAILED" });
        if let Some(why) = &failure {
            println!("    {why}");
        }
        self.checks.push(Checked { name: name.to_owned(), seconds, failure });
    }

    pub(super) fn chose(&mut self, chosen: CopiedFrom) {
        println!("{}", words_of(chosen));
        self.chosen = Some(chosen);
    }

    pub(super) fn figure(&mut self, figure: Figure) {
        println!("{:>10.2} {:<6} {}  {}", figure.value, figure.unit, figure.name, figure.words());
        self.figures.push(figure);
    }

    pub(super) fn failed(&self) -> usize {
        self.checks.iter().filter(|check| check.failure.is_some()).count()
    }

    fn missed(&self) -> usize {
        self.figures.iter().filter(|figure| figure.is_met() == Some(false)).count()
    }

    pub(super) fn verdict(&self) -> ExitCode {
        let (failed, missed) = (self.failed(), self.missed());
        println!(
            "{} checks, {failed} failed; {} figures, {missed} below their bar",
            self.checks.len(),
            self.figures.len()
        );
        if let Some(pretends) = self.pretends {
            println!("this was {pretends}: nothing was verified on hardware");
        }
        match (failed, missed) {
            (0, 0) => ExitCode::SUCCESS,
            // What such a device takes is no figure.
            (0, _) if self.pretends.is_some() => ExitCode::SUCCESS,
            (0, _) => ExitCode::from(3),
            _ => ExitCode::FAILURE,
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("gpu.md"), self.markdown()?)?;
        std::fs::write(folder.join("gpu.json"), format!("{:#}\n", self.json()))?;
        Ok(())
    }

    fn markdown(&self) -> Result<String, Failure> {
        let gpu = &self.properties;
        let mut text = String::from("# The HBM tier on a GPU\n\n");
        if let Some(pretends) = self.pretends {
            writeln!(text, "**This was {pretends}: it proves the harness and says nothing about hardware.**\n")?;
        }
        let (major, minor) = gpu.capability;
        writeln!(
            text,
            "- GPU: {}, {} MiB, {} multiprocessors, compute capability {major}.{minor}",
            gpu.name,
            gpu.total_bytes >> 20,
            gpu.multiprocessor_count
        )?;
        writeln!(text, "- driver: CUDA {}, batched copies: {}", gpu.driver_version, gpu.batched_copies)?;
        writeln!(text, "- host arena: {}", self.arena)?;
        if let Some(chosen) = self.chosen {
            writeln!(text, "- {}", words_of(chosen))?;
        }
        if let Some(why) = &self.nvme {
            writeln!(text, "- NVMe was not measured: {why}")?;
        }
        text.push_str("\n## Checks\n\n| check | seconds | |\n|---|--:|---|\n");
        for Checked { name, seconds, failure } in &self.checks {
            let result =
                failure.as_ref().map_or("ok".into(), |why| format!("FAILED: {}", why.replace(['|', '\n'], " ")));
            writeln!(text, "| {} | {seconds:.2} | {result} |", name.replace('_', " "))?;
        }
        text.push_str("\n## Figures\n\nMedians of the rounds, one machine, one run.\n\n");
        text.push_str("| figure | | unit | compared with | bar met |\n|---|--:|---|---|---|\n");
        for figure in &self.figures {
            let met = figure.is_met().map_or("", |met| if met { "yes" } else { "NO" });
            writeln!(text, "| {} | {:.2} | {} | {} | {met} |", figure.name, figure.value, figure.unit, figure.words())?;
        }
        Ok(text)
    }

    fn json(&self) -> Value {
        let check = |check: &Checked| json!({ "name": check.name, "seconds": check.seconds, "failure": check.failure });
        let figure = |figure: &Figure| {
            json!({
                "name": figure.name, "value": figure.value, "unit": figure.unit,
                "compared_with": figure.words(), "bar_met": figure.is_met(),
            })
        };
        json!({
            "gpu": self.properties.name,
            "hardware": self.pretends.is_none(),
            "total_bytes": self.properties.total_bytes,
            "driver_version": self.properties.driver_version,
            "batched_copies": self.properties.batched_copies,
            "copied_from": self.chosen.map(|chosen| json!({ "load": chosen.load, "save": chosen.save })),
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
            "figures": self.figures.iter().map(figure).collect::<Vec<_>>(),
        })
    }
}

fn words_of(chosen: CopiedFrom) -> String {
    let from = |bytes: u64| match bytes {
        u64::MAX => "none".to_owned(),
        bytes => format!("those of {} KiB and more", bytes >> 10),
    };
    format!(
        "runs that go through the copy engines, as measured: loads {}, saves {}",
        from(chosen.load),
        from(chosen.save)
    )
}
