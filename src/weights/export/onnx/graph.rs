//! The graph of a backbone and its heads.

use super::message::{Attribute, Graph, Node, ValueInfo};
use super::weight::{EPSILON, Norm, Value, Weight};
use crate::error::{Error, Result};
use crate::model::heads::OutputNorm;
use crate::model::layers::Geometry;
use crate::model::resnet::plan::{AveragePool, BlockPlan, LayerPlan, MaxPool, SelectiveKernelPlan};
use crate::rows::SHORTEST;
use crate::weights::export::{Model, Options};
use tch::Tensor;

/// Nodes in order and the numbers they take.
pub(super) struct Builder<'a> {
    model: &'a Model<'a>,
    fold: bool,
    nodes: Vec<Node>,
    pub(super) weights: Vec<Weight<'a>>,
    outputs: Vec<ValueInfo>,
}

/// A layer of a head: where its tensors are, and what comes before and behind its matrix.
struct Affine<'a> {
    place: String,
    norm: Option<Norm<'a>>,
    cosines: bool,
    relu: bool,
}

impl<'a> Builder<'a> {
    /// The whole graph.
    ///
    /// # Errors
    /// [`Error::Weights`] if a tensor is missing.
    pub(super) fn build(
        model: &'a Model<'a>,
        options: &Options,
    ) -> Result<(Graph, Vec<Weight<'a>>)> {
        let mut builder = Self {
            model,
            fold: options.fold,
            nodes: Vec::new(),
            weights: Vec::new(),
            outputs: Vec::new(),
        };
        let h = builder.backbone(options.blocks)?;
        if options.head {
            builder.heads(&h)?;
        }
        let sides = [Err("N"), Ok(model.config.input_channels), Err("H"), Err("W")];
        let graph = Graph {
            node: builder.nodes,
            name: "diptych".into(),
            initializer: Vec::new(),
            input: vec![ValueInfo::floats("image", &sides)],
            output: builder.outputs,
        };
        Ok((graph, builder.weights))
    }

    /// Adds a node and gives the name of its only output.
    fn node(
        &mut self,
        name: &str,
        op: &str,
        inputs: &[&str],
        attributes: Vec<Attribute>,
    ) -> String {
        self.nodes_of(name, op, inputs, &[name], attributes);
        name.to_owned()
    }

    fn nodes_of(
        &mut self,
        name: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attribute: Vec<Attribute>,
    ) {
        self.nodes.push(Node {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: outputs.iter().map(|output| (*output).to_owned()).collect(),
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute,
        });
    }

    fn weight(&mut self, name: String, shape: Vec<i64>, value: Value<'a>) -> String {
        self.weights.push(Weight { name: name.clone(), shape, value });
        name
    }

    fn integers(&mut self, name: String, values: &[i64]) -> String {
        self.weight(name, vec![values.len() as i64], Value::Integers(values.to_vec()))
    }

    /// The batch norm at a full name (`backbone.bn1`).
    fn norm(&self, name: &str) -> Result<Norm<'a>> {
        let model = self.model;
        let part = |value: &str| model.tensors.get(&format!("{name}.{value}"));
        let needed = |value: &str| {
            part(value)
                .ok_or_else(|| Error::Weights(format!("the model has no tensor `{name}.{value}`")))
        };
        Ok(Norm {
            scale: part("weight"),
            shift: part("bias"),
            mean: needed("running_mean")?,
            variance: needed("running_var")?,
        })
    }

    /// A batch norm of its own.
    fn batch_norm(&mut self, name: &str, x: &str, norm: Norm<'a>) -> String {
        let channels = norm.mean.size();
        let or = |value: Option<&'a Tensor>, other: f32| {
            value.map_or(Value::Filled(other), Value::Plain)
        };
        let inputs = [
            self.weight(format!("{name}.weight"), channels.clone(), or(norm.scale, 1.0)),
            self.weight(format!("{name}.bias"), channels.clone(), or(norm.shift, 0.0)),
            self.weight(format!("{name}.running_mean"), channels.clone(), Value::Plain(norm.mean)),
            self.weight(format!("{name}.running_var"), channels, Value::Plain(norm.variance)),
        ];
        let [scale, shift, mean, variance] = inputs.each_ref().map(String::as_str);
        let inputs = [x, scale, shift, mean, variance];
        self.node(
            name,
            "BatchNormalization",
            &inputs,
            vec![Attribute::float("epsilon", EPSILON as f32)],
        )
    }

    /// A convolution and its batch norm, if any, by their names below the backbone.
    fn unit(
        &mut self,
        name: &str,
        norm: Option<&str>,
        x: &str,
        geometry: &Geometry,
    ) -> Result<String> {
        let kernel = self.model.tensor(&format!("{name}.weight"))?;
        let attributes = vec![
            Attribute::ints("dilations", &[1, 1]),
            Attribute::int("group", 1),
            Attribute::ints("kernel_shape", &[geometry.kernel; 2]),
            Attribute::ints("pads", &[geometry.padding; 4]),
            Attribute::ints("strides", &[geometry.stride; 2]),
        ];
        let (weight, shape) = (format!("{name}.weight"), kernel.size());
        let Some(norm_name) = norm else {
            let weight = self.weight(weight, shape, Value::Plain(kernel));
            return Ok(self.node(name, "Conv", &[x, &weight], attributes));
        };
        let norm = self.norm(&format!("backbone.{norm_name}"))?;
        if !self.fold {
            let weight = self.weight(weight, shape, Value::Plain(kernel));
            let y = self.node(name, "Conv", &[x, &weight], attributes);
            return Ok(self.batch_norm(norm_name, &y, norm));
        }
        let channels = vec![shape[0]];
        let weight = self.weight(weight, shape, Value::FoldedWeight(kernel, norm));
        let bias = self.weight(format!("{name}.bias"), channels, Value::FoldedBias(None, norm));
        Ok(self.node(name, "Conv", &[x, &weight, &bias], attributes))
    }

    fn relu(&mut self, x: &str) -> String {
        self.node(&format!("{x}.relu"), "Relu", &[x], Vec::new())
    }

    /// Images to features `h`.
    fn backbone(&mut self, blocks: bool) -> Result<String> {
        let plan = self.model.config.plan();
        let mut x = "image".to_owned();
        for ([name, norm], geometry) in plan.stem.names().iter().zip(&plan.stem.convolutions) {
            x = self.unit(name, Some(norm), &x, geometry)?;
            if plan.stem.relu {
                x = self.relu(&x);
            }
        }
        if let Some(pool) = plan.stem.pool {
            let mut attributes =
                vec![Attribute::ints("kernel_shape", &[3, 3]), Attribute::ints("strides", &[2, 2])];
            attributes.push(match pool {
                MaxPool::AllSides => Attribute::ints("pads", &[1; 4]),
                MaxPool::Same => Attribute::text("auto_pad", "SAME_UPPER"),
            });
            x = self.node("maxpool", "MaxPool", &[&x], attributes);
        }
        for (group, list) in (1..).zip(&plan.groups) {
            for (index, plan) in list.iter().enumerate() {
                let name = if index + 1 == list.len() {
                    format!("block{group}")
                } else {
                    format!("layer{group}.{index}")
                };
                x = self.block(&format!("layer{group}.{index}"), &name, plan, &x)?;
            }
            if let (true, Some(last)) = (blocks, list.last()) {
                let (height, width) = (format!("H{group}"), format!("W{group}"));
                let sides = [Err("N"), Ok(last.last.outputs), Err(&*height), Err(&*width)];
                self.outputs.push(ValueInfo::floats(&x, &sides));
            }
        }
        let pooled = self.node("pool", "GlobalAveragePool", &[&x], Vec::new());
        let h = self.node("h", "Flatten", &[&pooled], vec![Attribute::int("axis", 1)]);
        self.outputs.push(ValueInfo::floats(&h, &[Err("N"), Ok(self.model.config.features())]));
        Ok(h)
    }

    /// A residual block; `result` is what its output is called.
    fn block(
        &mut self,
        place: &str,
        result: &str,
        plan: &BlockPlan,
        input: &str,
    ) -> Result<String> {
        let names =
            |number: usize| [format!("{place}.conv{number}"), format!("{place}.bn{number}")];
        let mut x = input.to_owned();
        for (number, layer) in (1..).zip(&plan.branch) {
            x = match layer {
                LayerPlan::Convolution(geometry) => {
                    let [convolution, norm] = names(number);
                    let y = self.unit(&convolution, Some(&norm), &x, geometry)?;
                    self.relu(&y)
                }
                LayerPlan::SelectiveKernel(kernel) => {
                    self.selective_kernel(&format!("{place}.sk"), kernel, &x)?
                }
            };
        }
        let [convolution, norm] = names(plan.branch.len() + 1);
        let branch = self.unit(&convolution, Some(&norm), &x, &plan.last)?;
        let shortcut = match &plan.shortcut {
            None => input.to_owned(),
            Some(shortcut) => {
                let [convolution, norm] =
                    shortcut.names().map(|name| format!("{place}.downsample.{name}"));
                let x =
                    self.average_pool(&format!("{place}.downsample.pool"), shortcut.pool, input);
                self.unit(&convolution, Some(&norm), &x, &shortcut.convolution)?
            }
        };
        let sum = self.node(&format!("{place}.sum"), "Add", &[&branch, &shortcut], Vec::new());
        Ok(self.node(result, "Relu", &[&sum], Vec::new()))
    }

    /// What hangs over the end of a map is one row and column of padding, counted or not.
    fn average_pool(&mut self, name: &str, pool: AveragePool, x: &str) -> String {
        let (stride, counted) = match pool {
            AveragePool::Absent | AveragePool::Skipped => return x.to_owned(),
            AveragePool::Same => (1, 0),
            AveragePool::SameOverZeros => (1, 1),
            AveragePool::OverPixels => (2, 0),
            AveragePool::OverZeros => (2, 1),
        };
        let attributes = vec![
            Attribute::int("count_include_pad", counted),
            Attribute::ints("kernel_shape", &[2, 2]),
            Attribute::ints("pads", &[0, 0, 1, 1]),
            Attribute::ints("strides", &[stride; 2]),
        ];
        self.node(name, "AveragePool", &[x], attributes)
    }

    fn selective_kernel(
        &mut self,
        place: &str,
        plan: &SelectiveKernelPlan,
        x: &str,
    ) -> Result<String> {
        let below = |name: &str| format!("{place}.{name}");
        let channels = plan.split.outputs / 2;
        let u = self.unit(&below("split"), Some(&below("split_bn")), x, &plan.split)?;
        let u = self.relu(&u);
        let halves = [below("first"), below("second")];
        let [first, second] = halves.each_ref().map(String::as_str);
        let axis = || vec![Attribute::int("axis", 1)];
        self.nodes_of(&below("halves"), "Split", &[&u], &[first, second], axis());
        let sum = self.node(&below("sum"), "Add", &[first, second], Vec::new());
        let average = self.node(&below("average"), "GlobalAveragePool", &[&sum], Vec::new());
        let c =
            self.unit(&below("squeeze"), Some(&below("squeeze_bn")), &average, &plan.squeeze())?;
        let c = self.relu(&c);
        let mixing = self.unit(&below("select"), None, &c, &plan.select())?;
        let shape = self.integers(below("shape"), &[0, 2, channels, 1, 1]);
        let mixing = self.node(&below("pairs"), "Reshape", &[&mixing, &shape], Vec::new());
        let mixing = self.node(&below("softmax"), "Softmax", &[&mixing], axis());
        let weights = [below("first_weights"), below("second_weights")];
        let names = weights.each_ref().map(String::as_str);
        self.nodes_of(&below("weights"), "Split", &[&mixing], &names, axis());
        let axes = self.integers(below("axes"), &[1]);
        let mut weighed = Vec::new();
        for (map, weight) in [first, second].into_iter().zip(names) {
            let weight =
                self.node(&format!("{weight}.map"), "Squeeze", &[weight, &axes], Vec::new());
            weighed.push(self.node(&format!("{map}.weighed"), "Mul", &[map, &weight], Vec::new()));
        }
        Ok(self.node(&below("result"), "Add", &[&weighed[0], &weighed[1]], Vec::new()))
    }

    /// Projector and classifier.
    fn heads(&mut self, h: &str) -> Result<()> {
        let mut z = h.to_owned();
        let mut taps = vec![z.clone()];
        if let Some((config, count)) = &self.model.projector {
            for index in 0..*count {
                let place = format!("projector.layers.{index}");
                let hidden = index + 1 < config.layers;
                let has_norm = if hidden {
                    config.batch_norm
                } else {
                    config.output_batch_norm != OutputNorm::None
                };
                let norm = if has_norm { Some(self.norm(&format!("{place}.norm"))?) } else { None };
                let cosines = config.norm_linear && !hidden;
                z = self.linear(&Affine { place, norm, cosines, relu: hidden }, "linear", &z)?;
                taps.push(z.clone());
            }
            let last = self.node("z", "Identity", &[&z], Vec::new());
            let width = self.width(*count)?;
            self.outputs.push(ValueInfo::floats(&last, &[Err("N"), Ok(width)]));
        }
        // One behind layers that are not there is left out.
        if let (Some(classes), Some(below)) =
            (self.model.classes(), taps.get(self.model.classifier_behind))
        {
            let layer =
                Affine { place: "classifier".into(), norm: None, cosines: false, relu: false };
            let logits = self.linear(&layer, "", below)?;
            let logits = self.node("logits", "Identity", &[&logits], Vec::new());
            self.outputs.push(ValueInfo::floats(&logits, &[Err("N"), Ok(classes)]));
        }
        Ok(())
    }

    /// Values that the first layers of the projector give.
    fn width(&self, layers: usize) -> Result<i64> {
        let Some(last) = layers.checked_sub(1) else { return Ok(self.model.config.features()) };
        let name = format!("projector.layers.{last}.linear.weight");
        let weight = self.model.tensors.get(&name);
        let weight =
            weight.ok_or_else(|| Error::Weights(format!("the model has no tensor `{name}`")))?;
        Ok(weight.size()[0])
    }

    /// A linear layer, its batch norm and its `ReLU`.
    fn linear(&mut self, layer: &Affine<'a>, part: &str, x: &str) -> Result<String> {
        let Affine { place, norm, cosines, relu } = layer;
        let model = self.model;
        let name = if part.is_empty() { place.clone() } else { format!("{place}.{part}") };
        let weight = model.tensors.get(&format!("{name}.weight"));
        let weight = weight
            .ok_or_else(|| Error::Weights(format!("the model has no tensor `{name}.weight`")))?;
        let bias = model.tensors.get(&format!("{name}.bias"));
        let mut x = x.to_owned();
        if *cosines {
            let axes = vec![Attribute::ints("axes", &[-1]), Attribute::int("keepdims", 1)];
            let length = self.node(&format!("{name}.length"), "ReduceL2", &[&x], axes);
            let least =
                self.weight(format!("{name}.least"), Vec::new(), Value::Filled(SHORTEST as f32));
            let length =
                self.node(&format!("{name}.divisor"), "Max", &[&length, &least], Vec::new());
            x = self.node(&format!("{name}.unit"), "Div", &[&x, &length], Vec::new());
        }
        let folded = norm.filter(|_| self.fold && !cosines);
        let value = match folded {
            Some(norm) => Value::FoldedWeight(weight, norm),
            None if *cosines => Value::UnitRows(weight),
            None => Value::Plain(weight),
        };
        let outputs = vec![weight.size()[0]];
        let matrix = self.weight(format!("{name}.weight"), weight.size(), value);
        let mut inputs = vec![x, matrix];
        match (folded, bias) {
            (Some(norm), bias) => {
                let value = Value::FoldedBias(bias, norm);
                inputs.push(self.weight(format!("{name}.bias"), outputs, value));
            }
            (None, Some(bias)) => {
                inputs.push(self.weight(format!("{name}.bias"), outputs, Value::Plain(bias)));
            }
            (None, None) => {}
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let gemm = format!("{name}.product");
        let mut y = self.node(&gemm, "Gemm", &inputs, vec![Attribute::int("transB", 1)]);
        if let (Some(norm), None) = (norm, folded) {
            y = self.batch_norm(&format!("{place}.norm"), &y, *norm);
        }
        Ok(if *relu { self.relu(&y) } else { y })
    }
}
