//! Variables of a checkpoint by their names: where in the network each belongs, or what else it is.

/// A variable, its name taken apart.
pub(super) struct Variable<'a> {
    /// As it was given.
    pub(super) name: &'a str,
    pub(super) shape: &'a [i64],
    /// Whether it belongs to the moving average.
    pub(super) average: bool,
    pub(super) place: Place,
}

/// Where in the network a variable belongs.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Place {
    /// Kernel of a convolution of the backbone, by its number.
    Kernel(u32),
    /// Value of a batch norm of the backbone, by its number.
    Norm(u32, &'static str),
    /// Matrix of a layer of the projection head, or a value of its batch norm.
    Projector(u32, &'static str),
    /// Matrix (`kernel`) or `bias` of the linear head.
    Classifier(&'static str),
    /// Known to lie beside the network.
    Nowhere(&'static str),
    /// Nothing that is known.
    Unknown,
}

/// Values of a batch norm by their names and by ours.
pub(super) const NORM: [(&str, &str); 4] = [
    ("gamma", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var"),
];

/// The number behind a layer's name: none is 0.
fn number(component: &str, layer: &str) -> Option<u32> {
    match component.strip_prefix(layer)? {
        "" => Some(0),
        rest => {
            let digits = rest.strip_prefix('_')?;
            let plain = digits.bytes().all(|c| c.is_ascii_digit()) && !digits.starts_with('0');
            digits.parse().ok().filter(|_| plain)
        }
    }
}

impl<'a> Variable<'a> {
    pub(super) fn new(name: &'a str, shape: &'a [i64]) -> Self {
        let bare = name.split(':').next().unwrap_or(name);
        let parts: Vec<&str> = bare.split('/').collect();
        let average = parts[0] == "ema_model";
        Self { name, shape, average, place: place(&parts) }
    }
}

fn place(parts: &[&str]) -> Place {
    const OPTIMIZER: Place = Place::Nowhere("state of the optimizer");
    let [path @ .., layer, value] = parts else {
        return match parts {
            ["global_step" | "save_counter" | "step"] => Place::Nowhere("counters"),
            ["beta1_power" | "beta2_power" | "learning_rate"] => OPTIMIZER,
            _ => Place::Unknown,
        };
    };
    // TensorFlow 2 names a slot by the optimizer, by its class or by where it hangs.
    let of_optimizer = |part: &&str| {
        matches!(*part, "Momentum" | "momentum" | "Adam" | "Adam_1" | "ExponentialMovingAverage")
            || part.to_lowercase().contains("optimizer")
    };
    if parts.iter().any(of_optimizer) {
        return OPTIMIZER;
    }
    // The keys of earlier images, where it was trained with such.
    if parts[0] == "memory" {
        return Place::Nowhere("memory");
    }
    let inside = |name: &str| path.contains(&name);
    let norm = NORM.iter().find(|(theirs, _)| theirs == value).map(|(_, ours)| *ours);
    if inside("base_model") || inside("resnet") {
        if let (Some(number), "kernel") = (number(layer, "conv2d"), *value) {
            return Place::Kernel(number);
        }
        if let (Some(number), Some(value)) = (number(layer, "batch_normalization"), norm) {
            return Place::Norm(number, value);
        }
    }
    let level = |part: &&str| part.strip_prefix("nl_")?.parse().ok();
    if let Some(level) = path.iter().find_map(level) {
        if number(layer, "dense").is_some() && *value == "kernel" {
            return Place::Projector(level, "linear.weight");
        }
        if let (Some(_), Some(value)) = (number(layer, "batch_normalization"), norm) {
            return Place::Projector(level, value);
        }
    }
    if path.iter().any(|part| matches!(*part, "head_supervised" | "supervised_head"))
        && number(layer, "dense").is_some()
    {
        match *value {
            "kernel" => return Place::Classifier("kernel"),
            "bias" => return Place::Classifier("bias"),
            _ => {}
        }
    }
    Place::Unknown
}
