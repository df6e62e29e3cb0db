//! A queue of rows from earlier steps, first in, first out (He et al. 2020, arXiv:1911.05722, §3.2).

use crate::model::{Place, Role};
use crate::random::Stream;
use crate::rows::unit_rows;
use tch::{Kind, Tensor, no_grad};

/// K rows, of which the oldest give way. Cut into parts, each virtual rank has its own share of them.
#[derive(Debug)]
pub struct Queue {
    rows: Tensor,
    pointer: Tensor,
    parts: i64,
}

impl Queue {
    /// A queue of `length` rows of width `d` in `parts` equal parts, at first random unit vectors.
    pub fn build(place: &mut Place<'_>, length: usize, d: i64, parts: i64) -> Self {
        assert!(length as i64 % parts == 0, "the parts of a queue are equal");
        let rows = place.add("rows", Role::State, &[length as i64, d], Stream::normal);
        no_grad(|| rows.shallow_clone().copy_(&unit_rows(&rows)));
        Self { rows, pointer: place.add_counter("pointer"), parts }
    }

    /// A queue of `length` rows of width `d` that starts with none, for a method that waits until it is full.
    pub fn empty(place: &mut Place<'_>, length: usize, d: i64) -> Self {
        let rows = place.add("rows", Role::State, &[length as i64, d], |_| 0.0);
        Self { rows, pointer: place.add_counter("pointer"), parts: 1 }
    }

    /// Whether every row has been pushed: the last one, which comes last, is not zero.
    pub fn is_full(&self) -> bool {
        bool::try_from(self.rows.narrow(0, self.rows.size()[0] - 1, 1).any()).unwrap_or(false)
    }

    /// The rows of one part, `[K / parts, d]`.
    pub fn part(&self, part: i64) -> Tensor {
        let length = self.rows.size()[0] / self.parts;
        self.rows.narrow(0, part * length, length)
    }

    /// Parts it is cut into.
    pub fn parts(&self) -> i64 {
        self.parts
    }

    /// Puts `rows` `[N, d]` in the place of the oldest, wrapping around at the end; the p-th part gets the p-th of so many
    /// equal shares. Of a share longer than its part the last rows stay.
    pub fn push(&self, rows: &Tensor) {
        let length = self.rows.size()[0] / self.parts;
        let count = rows.size()[0] / self.parts;
        let start = self.pointer.int64_value(&[0]);
        let kept = count.min(length);
        no_grad(|| {
            let rows = rows.detach().to_kind(self.rows.kind()).view([self.parts, count, -1]);
            let rows = rows.narrow(1, count - kept, kept).flatten(0, 1);
            let index = |n: i64| Tensor::arange(n, (Kind::Int64, rows.device()));
            let place = (index(kept) + (start + count - kept)).remainder(length);
            let place = place + index(self.parts).unsqueeze(1) * length;
            let _ = self.rows.shallow_clone().index_copy_(0, &place.flatten(0, 1), &rows);
            let _ = self.pointer.shallow_clone().fill_((start + count) % length);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Parameters;
    use tch::Device;

    fn queue(length: usize, parts: i64) -> (Parameters, Queue) {
        let mut parameters = Parameters::new(0, Device::Cpu, Kind::Float);
        let queue = Queue::build(&mut parameters.root().at("queue"), length, 2, parts);
        (parameters, queue)
    }

    fn numbered(numbers: impl IntoIterator<Item = i64>) -> Tensor {
        let numbers: Vec<f32> = numbers.into_iter().map(|n| n as f32).collect();
        Tensor::from_slice(&numbers).unsqueeze(1).repeat([1, 2])
    }

    fn firsts(rows: &Tensor) -> Vec<f32> {
        Vec::try_from(rows.select(1, 0)).unwrap()
    }

    #[test]
    fn it_starts_with_unit_rows_and_is_state_that_nothing_trains() {
        let (parameters, queue) = queue(500, 1);
        let length = queue.part(0).square().sum_dim_intlist(1, false, Kind::Float);
        assert!((length - 1.0).abs().max().double_value(&[]) < 1e-6);
        assert!(queue.part(0).mean(Kind::Float).double_value(&[]).abs() < 0.1);
        let names: Vec<_> = parameters.all().iter().map(|p| (p.name.as_str(), p.role)).collect();
        assert_eq!(names, [("queue.rows", Role::State), ("queue.pointer", Role::State)]);
        assert_eq!((parameters.count(), parameters.all()[1].tensor.kind()), (0, Kind::Int64));
    }

    #[test]
    fn the_oldest_rows_give_way_and_the_end_wraps_around() {
        let (parameters, queue) = queue(6, 1);
        for batch in 0..4 {
            queue.push(&numbered([2 * batch, 2 * batch + 1]));
        }
        assert_eq!(firsts(&queue.part(0)), [6.0, 7.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(parameters.all()[1].tensor.int64_value(&[0]), 2);
        // Batches that do not divide the length.
        queue.push(&numbered(10..15));
        assert_eq!(firsts(&queue.part(0)), [14.0, 7.0, 10.0, 11.0, 12.0, 13.0]);
        queue.push(&numbered(20..28));
        assert_eq!(firsts(&queue.part(0)), [25.0, 26.0, 27.0, 22.0, 23.0, 24.0]);
        assert_eq!(parameters.all()[1].tensor.int64_value(&[0]), 3);
    }

    #[test]
    fn an_empty_queue_is_full_once_every_row_was_pushed() {
        let mut parameters = Parameters::new(0, Device::Cpu, Kind::Float);
        let queue = Queue::empty(&mut parameters.root().at("queue"), 5, 2);
        assert_eq!(firsts(&queue.part(0)), [0.0; 5]);
        let full = [[1, 2], [3, 4], [5, 6], [7, 8]].map(|pushed| {
            queue.push(&numbered(pushed));
            queue.is_full()
        });
        assert_eq!(full, [false, false, true, true]);
        assert_eq!(firsts(&queue.part(0)), [6.0, 7.0, 8.0, 4.0, 5.0]);
        let names: Vec<_> = parameters.all().iter().map(|p| (p.name.as_str(), p.role)).collect();
        assert_eq!(names, [("queue.rows", Role::State), ("queue.pointer", Role::State)]);
    }

    #[test]
    fn each_part_gets_its_own_share() {
        let (_parameters, queue) = queue(6, 2);
        queue.push(&numbered([0, 1, 10, 11]));
        queue.push(&numbered([2, 3, 12, 13]));
        assert_eq!(firsts(&queue.part(0)), [3.0, 1.0, 2.0]);
        assert_eq!(firsts(&queue.part(1)), [13.0, 11.0, 12.0]);
    }
}
