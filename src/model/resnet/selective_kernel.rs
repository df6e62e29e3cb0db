//! Selective kernels (Li et al. 2019, arXiv:1903.06586) as SimCLRv2's code has them: two candidate maps, mixed per
//! channel by a gate that has seen the averages of both.

use super::plan::SelectiveKernelPlan;
use super::unit::Unit;
use crate::model::layers::{Convolution, Initialization};
use crate::model::{Phase, Place};
use tch::Tensor;

/// Takes the place of a 3×3 convolution, its batch norm and its `ReLU`:
///
/// ```text
/// u1, u2 = halves of ReLU(BN(conv3x3(x)))          [N,F,h,w] each
/// c      = ReLU(BN(conv1x1(mean over h, w of u1 + u2)))
/// a1, a2 = softmax over the two halves of conv1x1(c)
/// result = a1·u1 + a2·u2
/// ```
///
/// Both candidates are 3×3, where the paper has a 3×3 and a dilated 3×3. Tensors: `sk.split`, `sk.split_bn`,
/// `sk.squeeze`, `sk.squeeze_bn`, `sk.select`.
#[derive(Debug)]
pub(super) struct SelectiveKernel {
    split: Unit,
    squeeze: Unit,
    select: Convolution,
}

impl SelectiveKernel {
    pub(super) fn build(
        place: &mut Place<'_>,
        plan: &SelectiveKernelPlan,
        start: Initialization,
    ) -> Self {
        let mut place = place.at("sk");
        Self {
            split: Unit::build(&mut place, ["split", "split_bn"], plan.split, start, 1.0),
            squeeze: Unit::build(&mut place, ["squeeze", "squeeze_bn"], plan.squeeze(), start, 1.0),
            select: Convolution::build(&mut place.at("select"), plan.select(), start),
        }
    }

    /// `[N,C,h,w]` to `[N,F,h',w']`, not below 0.
    pub(super) fn forward(&self, x: &Tensor, phase: Phase) -> Tensor {
        let u = self.split.forward(x, phase).relu_(); // [N,2F,h',w']
        let (n, channels) = (u.size()[0], u.size()[1] / 2);
        let (first, second) = (u.narrow(1, 0, channels), u.narrow(1, channels, channels));
        let averages = (&first + &second).mean_dim([2, 3].as_slice(), true, None); // [N,F,1,1]
        let c = self.squeeze.forward(&averages, phase).relu_();
        let mixing = self.select.forward(&c).reshape([n, 2, channels]).softmax(1, None);
        let weight = |half: i64| mixing.select(1, half).view([n, channels, 1, 1]);
        (first * weight(0)).addcmul_(&second, &weight(1))
    }
}
