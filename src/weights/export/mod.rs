//! Our weights under the names and in the formats of other systems.
//!
//! Each file is written one tensor at a time beside its place, read back by the readers of [`super::TensorFile`] (a graph
//! by an interpreter of its own), and takes its name only when the network in it gives the features of ours on a probe.

mod archive;
mod hugging_face;
mod item;
mod names;
pub mod onnx;
mod pickle;
mod probe;
#[cfg(test)]
mod tests;
mod write;

use crate::augment::Preprocess;
use crate::error::{Error, Result};
use crate::files::{replace, replace_text};
use crate::model::{BackboneConfig, HeadConfig};
use item::Item;
use names::Target;
use probe::Probe;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Largest difference of features after reading back, as a share of the largest feature.
pub const TOLERANCE: f64 = 1e-4;

/// Names and file format of another system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// torchvision's names, in safetensors or, by the ending of the file, PyTorch's zip.
    Torchvision,
    /// timm's names, likewise.
    Timm,
    /// A folder that `from_pretrained` of transformers loads.
    HuggingFace,
    /// detectron2's pickle.
    Detectron2,
    /// Our names in PyTorch's zip.
    Torch,
    /// A graph with its weights.
    Onnx,
    /// Our names in safetensors, with our settings.
    Safetensors,
}

impl Format {
    /// All of them, with the names they are chosen by.
    pub const ALL: [(&'static str, Self); 7] = [
        ("torchvision", Self::Torchvision),
        ("timm", Self::Timm),
        ("huggingface", Self::HuggingFace),
        ("detectron2", Self::Detectron2),
        ("torch", Self::Torch),
        ("onnx", Self::Onnx),
        ("safetensors", Self::Safetensors),
    ];

    /// What it is chosen by.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| *name)
    }

    /// Who reads it, in messages.
    fn system(self) -> &'static str {
        match self {
            Self::Torchvision => "torchvision",
            Self::Timm => "timm",
            Self::HuggingFace => "transformers",
            Self::Detectron2 => "detectron2",
            Self::Torch | Self::Safetensors => "diptych",
            Self::Onnx => "ONNX",
        }
    }

    /// Endings of its file; none for a folder.
    fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Torchvision | Self::Timm => &["safetensors", "pth", "pt"],
            Self::HuggingFace => &[],
            Self::Detectron2 => &["pkl"],
            Self::Torch => &["pth", "pt"],
            Self::Onnx => &["onnx"],
            Self::Safetensors => &["safetensors"],
        }
    }

    /// Checks the name of the file.
    fn check(self, out: &Path) -> Result<()> {
        let ending = out.extension().and_then(|end| end.to_str()).unwrap_or_default();
        let endings = self.endings();
        if endings.is_empty() && out.is_file() {
            return Err(Error::Recipe(format!(
                "`--out` of format {} is a folder, but `{}` is a file",
                self.name(),
                out.display()
            )));
        }
        if endings.is_empty() || endings.contains(&ending) {
            return Ok(());
        }
        Err(Error::Recipe(format!(
            "`--out` of format {} must end in .{}, found `{}`",
            self.name(),
            endings.join(" or ."),
            out.display()
        )))
    }
}

/// The metadata key under which safetensors with our names say which network they are and how its images are prepared.
pub const SETTINGS: &str = "diptych.model";

/// A model to write.
#[derive(Debug)]
pub struct Model<'a> {
    /// Its backbone.
    pub config: &'a BackboneConfig,
    /// Its tensors: `backbone.…`, and what there is of `projector.…` and `classifier.…`.
    pub tensors: &'a BTreeMap<String, Tensor>,
    /// The projection head, and how many of its layers are there.
    pub projector: Option<(HeadConfig, usize)>,
    /// How many layers of the projector the classifier, if there is one, sits behind; 0 on the features.
    pub classifier_behind: usize,
    /// How its images are prepared.
    pub preprocess: Option<&'a Preprocess>,
}

impl Model<'_> {
    /// A tensor of the backbone by its name below it.
    fn tensor(&self, name: &str) -> Result<&Tensor> {
        let name = format!("backbone.{name}");
        self.tensors
            .get(&name)
            .ok_or_else(|| Error::Weights(format!("the model has no tensor `{name}`")))
    }

    fn part(&self, prefix: &'static str) -> impl Iterator<Item = (&String, &Tensor)> {
        self.tensors.iter().filter(move |(name, _)| name.starts_with(prefix))
    }

    /// Number of classes, if there is a classifier.
    fn classes(&self) -> Option<i64> {
        self.tensors.get("classifier.weight").map(|weight| weight.size()[0])
    }

    /// Layers of the projector that are there.
    fn layers(&self) -> usize {
        self.projector.as_ref().map_or(0, |(_, layers)| *layers)
    }

    /// What of the heads cannot be computed: a projector that is not whole, and a classifier behind such a one.
    fn broken_heads(&self) -> Vec<String> {
        let told = |part: &'static str, what: &str| {
            let (count, title) = (self.part(part).count(), part.trim_end_matches('.'));
            (count > 0).then(|| format!("the {title} ({count} tensors): {what}"))
        };
        let projector = self.projector.is_none().then_some("it is not whole");
        let behind = self.classifier_behind > self.layers();
        let classifier = behind.then_some("it sits behind a projector that is not whole");
        let told = [("projector.", projector), ("classifier.", classifier)]
            .map(|(part, why)| why.and_then(|why| told(part, why)));
        told.into_iter().flatten().collect()
    }

    /// How images are prepared, for programs: mean and deviation of values in \[0, 1\], and the side.
    fn preparation(&self) -> Value {
        serde_json::to_value(self.preprocess).unwrap_or_default()
    }
}

/// What a file is to carry beside the backbone, and how.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The heads too, as far as the format has places for them.
    pub head: bool,
    /// ONNX: what comes out of every block group is an output.
    pub blocks: bool,
    /// ONNX: batch norms go into the convolutions before them.
    pub fold: bool,
    /// ONNX: more bytes of weights than this go into a file of their own.
    pub external_above: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { head: false, blocks: false, fold: true, external_above: onnx::LARGEST_MESSAGE }
    }
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Tensors in them.
    pub tensors: usize,
    /// Largest difference between the features of the network read back, as the other system computes them, and ours, as
    /// a share of the largest feature.
    pub difference: f64,
    /// What of the model is not in the files.
    pub left_out: Vec<String>,
    /// What whoever loads them must know.
    pub notes: Vec<String>,
}

/// Writes a model. A file that is there stays until the new one has been read back and gives the features of the model;
/// where the other system pools in another way than the model was trained with, the difference is told instead.
///
/// # Errors
/// [`Error::Recipe`] if `out` does not end as the format's files do; [`Error::Weights`] if the other system has no such
/// network, a wanted head is not there or has no place, or what was read back gives other features; [`Error::Io`].
pub fn export(model: &Model<'_>, format: Format, options: &Options, out: &Path) -> Result<Written> {
    format.check(out)?;
    if options.head && model.part("projector.").chain(model.part("classifier.")).next().is_none() {
        return Err(Error::Weights(
            "the model has no head that could be exported, neither a projector nor a classifier: leave `--head` out".into(),
        ));
    }
    if format == Format::Onnx {
        return onnx::export(model, options, out);
    }
    if options.blocks || !options.fold || options.external_above != onnx::LARGEST_MESSAGE {
        return Err(Error::Recipe(format!(
            "`--blocks`, `--unfolded` and `--external-data` are for `--format onnx`, not {}",
            format.name()
        )));
    }
    let target = Target::of(format, model)?;
    let sheet = Sheet::of(model, format, options)?;
    let probe = Probe::of(model)?;
    let mut difference = 0.0;
    let metadata = match format {
        Format::Safetensors => (SETTINGS, settings(model).to_string()),
        _ => ("format", "pt".to_owned()),
    };
    let zip = matches!(out.extension().and_then(|end| end.to_str()), Some("pth" | "pt"));
    let place = match format {
        Format::HuggingFace => out.join("model.safetensors"),
        _ => out.to_owned(),
    };
    replace(&place, |sibling| {
        match format {
            Format::Detectron2 => write::detectron2(sibling, &sheet.items)?,
            _ if zip => write::torch(sibling, &sheet.items)?,
            _ => write::safetensors(sibling, &sheet.items, metadata)?,
        }
        difference = probe.read_back(sibling, &target.config, &sheet, model)?;
        let same = target.config.flavor == model.config.flavor;
        if same && (difference.is_nan() || difference > TOLERANCE) {
            return Err(probe::differs(difference, probe.rounding(model)?));
        }
        Ok(())
    })?;
    let mut written = Written {
        files: vec![place],
        tensors: sheet.items.len(),
        difference,
        left_out: sheet.left_out,
        notes: target.notes,
    };
    if difference > TOLERANCE {
        written.notes.push(format!(
            "{} pools in another way than this network was trained with: on the probe its features are off by {:.1} % of \
             the largest; `--format onnx` carries the network as it is",
            format.system(),
            100.0 * difference
        ));
    }
    if format == Format::HuggingFace {
        let classes = model.classes().filter(|_| options.head);
        written.describe(model, classes, out)?;
    } else {
        written.unsaid(model, format);
    }
    Ok(written)
}

impl Written {
    /// Adds the files that transformers reads beside the weights.
    fn describe(&mut self, model: &Model<'_>, classes: Option<i64>, folder: &Path) -> Result<()> {
        let mut add = |name: &str, value: &Value| {
            let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
            let path = folder.join(name);
            replace_text(&path, &text)?;
            self.files.push(path);
            Ok(())
        };
        add("config.json", &hugging_face::config(model.config, classes))?;
        match hugging_face::preprocessor(model) {
            Ok(value) => add("preprocessor_config.json", &value),
            Err(why) => {
                self.left_out.push(format!("how images are prepared: {why}"));
                Ok(())
            }
        }
    }

    /// What the file does not say of the model.
    fn unsaid(&mut self, model: &Model<'_>, format: Format) {
        if format == Format::Safetensors {
            return;
        }
        self.left_out.push(match model.preprocess {
            Some(preprocess) => format!(
                "how images are prepared: `{}`, mean {:?}, std {:?}",
                preprocess.id, preprocess.mean, preprocess.std
            ),
            None => "how images are prepared, which the model does not say either".to_owned(),
        });
        if format == Format::Torch {
            self.left_out.push(format!("the network: {}", settings(model)["backbone"]));
        }
    }
}

/// The settings of a model, keys in order.
fn settings(model: &Model<'_>) -> Value {
    let mut value = json!({
        "backbone": model.config,
        "preprocess": model.preparation(),
        "projector": model.projector.as_ref().map(|(config, _)| config),
        "classifier_behind": model.classifier_behind,
    });
    value.sort_all_objects();
    value
}

/// What is written, and what is not.
struct Sheet<'a> {
    items: Vec<Item<'a>>,
    /// Names in the file of the tensors of the backbone.
    backbone: BTreeMap<String, String>,
    left_out: Vec<String>,
}

impl<'a> Sheet<'a> {
    fn of(model: &'a Model<'a>, format: Format, options: &Options) -> Result<Self> {
        let mut items = Vec::new();
        let mut backbone = BTreeMap::new();
        // PyTorch's norms have it, and a strict loader asks for it.
        let counted = matches!(format, Format::Torchvision | Format::Timm | Format::HuggingFace);
        for (name, _) in model.config.tensors() {
            let theirs = names::backbone(format, &name);
            items.push(Item::floats(theirs.clone(), model.tensor(&name)?));
            if let (true, Some(norm)) = (counted, theirs.strip_suffix("running_var")) {
                items.push(Item::counter(format!("{norm}num_batches_tracked")));
            }
            backbone.insert(name, theirs);
        }
        let mut left_out = Vec::new();
        let of_backbone = items.len();
        for head in ["projector.", "classifier."] {
            let tensors: Vec<_> = model.part(head).collect();
            let title = head.trim_end_matches('.');
            // A layer behind some of the projector has no meaning without it.
            let apart = head == "classifier." && model.classifier_behind > 0;
            let fits = match names::head(format, &format!("{head}weight")) {
                Some(_) if matches!(format, Format::Torch | Format::Safetensors) => true,
                named => named.is_some() && !apart,
            };
            if tensors.is_empty() {
                continue;
            }
            if !options.head {
                left_out.push(format!("the {title} ({} tensors): add `--head`", tensors.len()));
            } else if fits {
                for (name, tensor) in tensors {
                    let theirs = names::head(format, name).unwrap_or_else(|| name.clone());
                    items.push(Item::floats(theirs, tensor));
                }
            } else {
                let system = format.system();
                left_out.push(format!(
                    "the {title} ({} tensors): {system} has no place for it",
                    tensors.len()
                ));
            }
        }
        if options.head && items.len() == of_backbone {
            return Err(Error::Weights(format!(
                "there is nothing for `--head`: {}",
                left_out.join("; ")
            )));
        }
        Ok(Self { items, backbone, left_out })
    }
}
