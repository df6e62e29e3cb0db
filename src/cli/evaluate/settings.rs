//! Settings of an evaluation: what all protocols share, and a table for the one that is asked for.

use crate::cli::monitor::{of_own_data, same_place};
use crate::cli::tell;
use anyhow::Result;
use diptych::data::Selection;
use diptych::error::Error;
use diptych::evaluate::frequency::Groups;
use diptych::evaluate::logistic::Solver;
use diptych::evaluate::probe::Probe;
use diptych::evaluate::unlabelled::{Alignment, Invariance, Unlabelled};
use diptych::evaluate::{Clusters, FewShot, Knn, Linear, Logistic, Protocol, Retrieval, knn};
use diptych::machine;
use diptych::method;
use diptych::recipe::{DataConfig, Recipe};
use serde::{Deserialize, Serialize};

/// Settings that are left out while they have no value.
pub(in crate::cli) const OPTIONAL: [&str; 7] = [
    "data.limit",
    "data.subset",
    "data.label_fraction",
    "logistic.lambda",
    "logistic.max_iterations",
    "clusters.k",
    "alignment.views",
];

/// What users set, `key=value`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Of everything random in the protocol, and of how the data are cut.
    pub seed: u64,
    /// How many seeds, from `seed` on.
    pub seeds: u64,
    pub threads: usize,
    pub device: String,
    /// Whether results are told by how frequent a class is.
    pub groups: Groups,
    pub data: Data,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knn: Option<Knn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<knn::Sweep>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linear: Option<Linear>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logistic: Option<Logistic>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieval>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Clusters>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<FewShot>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Unlabelled>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invariance: Option<Invariance>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<Alignment>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Data {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_fraction: Option<f64>,
    pub holdout: f64,
    pub classes: Vec<String>,
}

impl Data {
    /// All images that may be looked at, before anything is changed. Of the images that a run was trained on (`--data` is
    /// left out or names them) its classes count, and those that it held out are asked about.
    pub(in crate::cli) fn new(recipe: Option<&Recipe>, given: Option<&String>) -> Self {
        let cut = of_own_data(given, recipe).map(|recipe| &recipe.data);
        let holds_out = cut.filter(|data| data.holdout > 0.0);
        Self {
            limit: None,
            subset: holds_out.and_then(|data| data.subset.clone()),
            label_fraction: None,
            holdout: holds_out.map_or(0.0, |data| data.holdout),
            classes: cut.map_or_else(Vec::new, |data| data.classes.clone()),
        }
    }

    /// Which images of each split are taken with a seed.
    pub(super) fn selection(&self, seed: u64) -> Selection {
        let Self { limit, holdout, label_fraction, .. } = *self;
        Selection { limit, holdout, label_fraction, seed }
    }

    /// Whether images at `location` that are asked about were trained on: with a holdout they are part of the training
    /// split, and a run has not seen them only if it was cut in the same way. Says so if they were.
    pub(super) fn trained_on(
        &self,
        recipe: Option<&Recipe>,
        location: &str,
        seeds: &[u64],
    ) -> bool {
        let of_run = |recipe: &&Recipe| {
            let source = recipe.data.source.as_ref();
            self.holdout > 0.0 && source.is_some_and(|source| same_place(source, location))
        };
        let Some(recipe) = recipe.filter(of_run) else { return false };
        let DataConfig { holdout, subset, classes, .. } = &recipe.data;
        let cut_alike = (*holdout, subset, classes) == (self.holdout, &self.subset, &self.classes)
            && seeds == [recipe.seed];
        if cut_alike {
            return false;
        }
        let labels = match recipe.method {
            method::Config::Classifier(_) | method::Config::SupCon(_) => "with",
            _ => "without",
        };
        tell(&format!(
            "note: images asked about were trained on, {labels} their labels; only with the run's own data.holdout, \
             data.subset, data.classes and seed are they those that it held out"
        ));
        true
    }
}

impl Settings {
    /// Those of a protocol that trains nothing with the backbone, before anything is changed.
    pub(super) fn new(recipe: Option<&Recipe>, given: Option<&String>) -> Self {
        Self {
            seed: recipe.map_or(0, |recipe| recipe.seed),
            seeds: 1,
            threads: machine::cores(),
            device: "auto".to_owned(),
            groups: Groups::default(),
            data: Data::new(recipe, given),
            knn: None,
            sweep: None,
            linear: None,
            logistic: None,
            retrieval: None,
            clusters: None,
            few_shot: None,
            probe: None,
            quality: None,
            invariance: None,
            alignment: None,
        }
    }

    /// The protocol that has a table here.
    pub(super) fn protocol(&self) -> Option<&dyn Protocol> {
        let tables: [Option<&dyn Protocol>; 7] = [
            self.knn.as_ref().map(|it| it as &dyn Protocol),
            self.sweep.as_ref().map(|it| it as &dyn Protocol),
            self.linear.as_ref().map(|it| it as &dyn Protocol),
            self.logistic.as_ref().map(|it| it as &dyn Protocol),
            self.retrieval.as_ref().map(|it| it as &dyn Protocol),
            self.clusters.as_ref().map(|it| it as &dyn Protocol),
            self.few_shot.as_ref().map(|it| it as &dyn Protocol),
        ];
        tables.into_iter().flatten().next()
    }

    /// Refuses what chooses or repeats a cut of the data, for protocols whose data have published splits.
    pub(super) fn only_one_cut(&self) -> Result<()> {
        let Data { limit, subset, label_fraction, holdout, classes } = &self.data;
        let given = [
            ("seeds", self.seeds != 1),
            ("data.limit", limit.is_some()),
            ("data.subset", subset.is_some()),
            ("data.label_fraction", label_fraction.is_some()),
            ("data.holdout", *holdout != 0.0),
            ("data.classes", !classes.is_empty()),
        ];
        match given.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((key, _)) => Err(Error::Recipe(format!(
                "`{key}` does not go with `evaluate transfer`, whose sets have published splits; `limit` of a set in the \
                 suite takes a part of it"
            ))
            .into()),
        }
    }

    /// Refuses groups of classes, for protocols that do not say which class was taken for which.
    pub(super) fn no_groups(&self, protocol: &str) -> Result<()> {
        if matches!(self.groups, Groups::Auto | Groups::Off) {
            return Ok(());
        }
        let text =
            format!("`groups` does not go with `evaluate {protocol}`, which ranks no classes");
        Err(Error::Recipe(text).into())
    }

    /// The seeds.
    pub(super) fn all_seeds(&self) -> Result<Vec<u64>> {
        if self.seeds == 0 {
            return Err(Error::Recipe("`seeds` must be at least 1, found `0`".to_owned()).into());
        }
        Ok((self.seed..self.seed.saturating_add(self.seeds)).collect())
    }
}

/// A protocol on stored features, by its id.
pub(super) struct Variant {
    pub id: &'static str,
    /// Puts its table in place.
    pub set: fn(&mut Settings),
}

pub(super) const KNN: &[Variant] = &[
    Variant { id: "knn", set: |settings| settings.knn = Some(Knn::default()) },
    Variant { id: "knn-1", set: |settings| settings.knn = Some(Knn::nearest()) },
    Variant { id: "knn-npid", set: |settings| settings.knn = Some(Knn::npid()) },
    Variant { id: "knn-sweep", set: |settings| settings.sweep = Some(knn::Sweep::default()) },
];

pub(super) const LINEAR: &[Variant] = &[
    Variant { id: "linear-features", set: |settings| settings.linear = Some(Linear::features()) },
    Variant {
        id: "adam-features",
        set: |settings| settings.linear = Some(Linear::adam_features()),
    },
];

pub(super) const LOGISTIC: &[Variant] = &[
    Variant { id: "logistic", set: |settings| settings.logistic = Some(Logistic::default()) },
    Variant {
        id: "logistic-reference",
        set: |settings| {
            settings.logistic = Some(Logistic { solver: Solver::Reference, ..Logistic::default() });
        },
    },
];

pub(super) const RETRIEVAL: &[Variant] =
    &[Variant { id: "retrieval", set: |settings| settings.retrieval = Some(Retrieval::default()) }];

pub(super) const CLUSTERS: &[Variant] =
    &[Variant { id: "clusters", set: |settings| settings.clusters = Some(Clusters::default()) }];

pub(super) const FEW_SHOT: &[Variant] =
    &[Variant { id: "few-shot", set: |settings| settings.few_shot = Some(FewShot::default()) }];

/// The variant of an id, the first without one.
pub(super) fn variant(variants: &'static [Variant], id: Option<&str>) -> Result<&'static Variant> {
    let Some(id) = id else { return Ok(&variants[0]) };
    variants.iter().find(|variant| variant.id == id).ok_or_else(|| {
        let known: Vec<&str> = variants.iter().map(|variant| variant.id).collect();
        let known = known.join(", ");
        Error::Recipe(format!("`--protocol` must be one of {known}, found `{id}`")).into()
    })
}
