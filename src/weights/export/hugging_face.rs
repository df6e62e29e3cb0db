//! The files beside the weights by which `transformers` knows a `ResNet` and how to prepare its images.

use super::Model;
use crate::augment::{Interpolation, Preprocess, Sizing};
use crate::model::BackboneConfig;
use serde_json::{Value, json};

/// `config.json` of a `ResNetModel`, or with a classifier of a `ResNetForImageClassification`.
pub(super) fn config(config: &BackboneConfig, classes: Option<i64>) -> Value {
    let expansion = config.name.expansion();
    let sizes: Vec<i64> = (0..4).map(|group| config.channels((64 << group) * expansion)).collect();
    let architecture =
        if classes.is_some() { "ResNetForImageClassification" } else { "ResNetModel" };
    let mut value = json!({
        "architectures": [architecture],
        "depths": config.name.depths(),
        "downsample_in_bottleneck": false,
        "downsample_in_first_stage": false,
        "embedding_size": config.channels(64),
        "hidden_act": "relu",
        "hidden_sizes": sizes,
        "layer_type": if expansion == 1 { "basic" } else { "bottleneck" },
        "model_type": "resnet",
        "num_channels": config.input_channels,
        "torch_dtype": "float32",
    });
    if let (Some(count), Some(map)) = (classes, value.as_object_mut()) {
        let label = |index: i64| format!("LABEL_{index}");
        let to_label: serde_json::Map<String, Value> =
            (0..count).map(|index| (index.to_string(), label(index).into())).collect();
        let to_id: serde_json::Map<String, Value> =
            (0..count).map(|index| (label(index), index.into())).collect();
        map.insert("id2label".into(), to_label.into());
        map.insert("label2id".into(), to_id.into());
    }
    value
}

/// `preprocessor_config.json`, where `transformers` has an image processor that does the same; else why not.
pub(super) fn preprocessor(model: &Model<'_>) -> Result<Value, String> {
    let preprocess: &Preprocess =
        model.preprocess.ok_or("the model does not say how images are prepared")?;
    let resample = match preprocess.interpolation {
        Interpolation::Bilinear => 2,
        Interpolation::Bicubic => 3,
        other => return Err(format!("it has no interpolation like {other:?}")),
    };
    let mut value = json!({
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": preprocess.mean,
        "image_std": preprocess.std,
        "resample": resample,
        "rescale_factor": 1.0 / 255.0,
    });
    let square = |side: usize| json!({ "height": side, "width": side });
    let rest = match preprocess.sizing {
        Sizing::Exact { size_px } => {
            json!({ "image_processor_type": "ViTImageProcessor", "size": square(size_px) })
        }
        Sizing::ShorterSide { resize_px, crop_px } => json!({
            "crop_size": square(crop_px),
            "do_center_crop": true,
            "image_processor_type": "BitImageProcessor",
            "size": { "shortest_edge": resize_px },
        }),
        Sizing::ExactThenCenter { resize_px, crop_px } => json!({
            "crop_size": square(crop_px),
            "do_center_crop": true,
            "image_processor_type": "BitImageProcessor",
            "size": square(resize_px),
        }),
        Sizing::CentralSquare { .. } => {
            return Err("it has no processor that cuts out a part of the shorter side first".into());
        }
    };
    if let (Some(map), Value::Object(rest)) = (value.as_object_mut(), rest) {
        map.extend(rest);
    }
    Ok(value)
}
