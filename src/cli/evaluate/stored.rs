//! Protocols on stored features: the backbone only looks, once.

use super::Arguments;
use super::settings::{Variant, variant};
use super::subject::{Judged, Subject};
use crate::cli::Answer;
use crate::cli::monitor::{image_bar, round_bar};
use anyhow::Result;
use diptych::data::Source;
use diptych::error::Error;
use diptych::evaluate::frequency::{Groups, grouped, per_class};
use diptych::evaluate::neighbours::gallery;
use diptych::evaluate::run::{Part, features, neighbours_gallery};
use diptych::evaluate::{Features, Finding, Measure, Protocol};
use serde_json::json;
use std::collections::BTreeMap;
use std::rc::Rc;

pub(super) fn run(arguments: &Arguments, variants: &'static [Variant]) -> Result<Answer> {
    let variant = variant(variants, arguments.protocol.as_deref())?;
    let subject = Subject::open(arguments, variant.set)?;
    with_labels(&subject.source)?;
    let seeds = subject.settings.all_seeds()?;
    let protocol = subject.settings.protocol().expect("the variant has put its table in place");
    let [references, queries] = stored(&subject, seeds[0])?;
    let groups = subject.settings.groups;
    let mut findings = Vec::with_capacity(seeds.len());
    let mut settings = protocol.settings();
    for seed in &seeds {
        let [references, queries] = stored(&subject, *seed)?;
        let finding = measure(protocol, [&references, &queries], *seed)?;
        let labels = per_class(references.classes());
        let has_table = !finding.details.confusion.is_empty() && finding.details.columns.is_empty();
        match groups.cuts(&labels).filter(|_| has_table || groups != Groups::Auto) {
            Some(cuts) => {
                settings["groups"] = json!(cuts);
                findings.push(grouped(finding, cuts, &labels)?);
            }
            None => findings.push(finding),
        }
    }
    let same = one_split(&subject);
    let mut baselines = Vec::new();
    for seed in if arguments.baselines { &seeds[..] } else { &[] } {
        baselines.push(untaught(&subject, protocol, *seed)?);
    }
    if let Some(run) = &subject.weights.run {
        let examples = gallery(&queries, &references, 8, 8, same)?;
        let parts = parts(&subject, seeds[0])?;
        let [references, queries] = parts.each_ref().map(|part| part.dataset.as_ref());
        neighbours_gallery(&examples, queries, references, &subject.source.classes, same)?
            .save(&run.join("pictures"), "neighbours")?;
    }
    let damaged = if same { 0 } else { references.damaged.len() } + queries.damaged.len();
    subject.answer(&Judged {
        id: variant.id.to_owned(),
        version: protocol.version(),
        settings,
        findings,
        baselines,
        counts: [references.len(), queries.len(), damaged],
    })
}

/// Features of references and queries.
fn stored(subject: &Subject, seed: u64) -> Result<[Rc<Features>; 2]> {
    let [references, queries] = parts(subject, seed)?;
    Ok([subject.features(&references)?, subject.features(&queries)?])
}

/// References and queries; the queries twice where one split asks about itself.
fn parts(subject: &Subject, seed: u64) -> Result<[Part<'_>; 2]> {
    let [references, queries] = subject.parts(seed)?;
    Ok(if one_split(subject) { [queries.clone(), queries] } else { [references, queries] })
}

fn one_split(subject: &Subject) -> bool {
    subject.settings.retrieval.as_ref().is_some_and(|retrieval| retrieval.same)
}

fn measure(
    protocol: &dyn Protocol,
    [references, queries]: [&Features; 2],
    seed: u64,
) -> Result<Finding> {
    Ok(protocol.measure(queries, references, seed, &mut round_bar("judging"))?)
}

/// The same number of what has learned nothing.
fn untaught(
    subject: &Subject,
    protocol: &dyn Protocol,
    seed: u64,
) -> Result<BTreeMap<String, Measure>> {
    let Subject { preprocess, layer, .. } = subject;
    let parts = parts(subject, seed)?;
    let untrained = subject.weights.untrained(seed)?;
    let of = |part: &Part<'_>| {
        features(&untrained, preprocess, *layer, part, None, &mut image_bar("untrained"))
    };
    let untrained = [Rc::new(of(&parts[0])?), Rc::new(of(&parts[1])?)];
    let pixels = [subject.pixels(&parts[0])?, subject.pixels(&parts[1])?];
    let mut found = BTreeMap::new();
    for (name, [references, queries]) in [("untrained", untrained), ("pixels", pixels)] {
        let finding = measure(protocol, [&references, &queries], seed)?;
        found.insert(name.to_owned(), finding.value);
    }
    Ok(found)
}

/// Refuses data without labels.
fn with_labels(source: &Source) -> Result<()> {
    if source.classes.is_empty() {
        return Err(Error::Data(format!(
            "`{}` has no labels, which this protocol needs; without them there are `diptych evaluate quality`, `diptych embed`, \
             and the nearest neighbours in the run's report.html",
            source.location
        ))
        .into());
    }
    Ok(())
}
