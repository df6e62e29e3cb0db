//! `diptych evaluate probe`: what h and z keep of a transformation.

use super::Arguments;
use super::settings::Settings;
use super::subject::{Judged, Subject};
use crate::cli::Answer;
use crate::cli::monitor::round_bar;
use anyhow::Result;
use diptych::augment::{Step, ViewRecipe};
use diptych::error::Error;
use diptych::evaluate::probe::{Answered, Probe, Question, VERSION};
use diptych::evaluate::{Details, Finding, Measure};
use serde_json::json;

/// Layers in the order in which the network gives them.
const LAYERS: [&str; 2] = ["h", "z"];

pub(super) fn run(arguments: &Arguments) -> Result<Answer> {
    let subject = Subject::open(arguments, |settings: &mut Settings| {
        settings.probe = Some(Probe::default());
    })?;
    arguments.refuse("probe", &["--protocol", "--baselines", "--layer"])?;
    subject.settings.no_groups("probe")?;
    let probe = subject.settings.probe.clone().expect("it was just put there");
    let view = training_view(&subject)?;
    let mut findings = Vec::new();
    let mut counts = [0, 0, 0];
    for seed in subject.settings.all_seeds()? {
        let (references, queries) = subject.source.for_evaluation(&subject.selection(seed))?;
        let mut forward =
            |pixels: &[u8], n: usize| subject.weights.h_and_z(pixels, n, &subject.preprocess);
        let images = [references.as_ref(), queries.as_ref()];
        let answered =
            probe.evaluate(&mut forward, &view, images, seed, &mut round_bar("probing"))?;
        let [unread, missed] = answered[0].damaged;
        counts = [references.len() - unread, queries.len() - missed, unread + missed];
        findings.push(finding(&answered));
    }
    let own = own(&subject, &probe);
    let mut settings = json!(probe);
    settings["view"] = json!(view);
    settings["trained_with"] = json!(own);
    subject.answer(&Judged {
        id: if own.len() == probe.questions.len() { "probe" } else { "probe-posthoc" }.to_owned(),
        version: VERSION,
        settings,
        findings,
        baselines: Vec::new(),
        counts,
    })
}

/// How images are cut and coloured: as the first view of the run.
fn training_view(subject: &Subject) -> Result<ViewRecipe> {
    let view = subject.recipe.as_ref().and_then(|recipe| recipe.view.first());
    let view = view.ok_or_else(|| {
        Error::Recipe(format!(
            "`{}` is no run folder, so how its training views are made is not known; give the folder of a run",
            subject.weights.file.display()
        ))
    })?;
    Ok(ViewRecipe { count: 1, ..view.clone() })
}

/// The questions about transformations that the network was trained with, as the paper's networks were.
fn own(subject: &Subject, probe: &Probe) -> Vec<Question> {
    let views = subject.recipe.iter().flat_map(|recipe| &recipe.view);
    let steps: Vec<&Step> = views.flat_map(|view| &view.steps).collect();
    let trained = |question: &&Question| steps.iter().any(|step| question.asks_about(step));
    probe.questions.iter().filter(trained).copied().collect()
}

/// The first question from h; all others beside it, and what is right without looking.
fn finding(answered: &[Answered]) -> Finding {
    let name = |it: &Answered| format!("{}_{}_top1", it.question.name(), LAYERS[it.layer]);
    let mut finding = Finding::default();
    for it in answered {
        finding = finding.and(&name(it), it.ranks.top(1)).and(
            &format!("{}_chance_top1", it.question.name()),
            Measure::plain(it.question.chance()),
        );
    }
    let first = &answered[0];
    finding.metric = name(first);
    finding.value = finding.also.remove(&finding.metric).unwrap_or_default();
    let answers = first.question.answers().iter().map(|answer| (*answer).to_owned()).collect();
    finding.details =
        Details { confusion: first.ranks.confusion(), classes: answers, ..Details::default() };
    finding
}
