//! What a loss compared, handed over to whoever watches the scores: rows without a graph, nothing worked out yet.

use tch::Tensor;

/// The pairs and negatives of a step, of one direction where a method has several.
#[derive(Debug, Default)]
pub struct Scores {
    /// τ, by which the loss divides; none where it divides by nothing.
    pub temperature: Option<f64>,
    /// As the networks made them. Several stand for consecutive queries of the batch, each lot with negatives of its own.
    pub plain: Vec<Compared>,
    /// After a feature transformation, as the loss saw them; empty where it saw the plain ones.
    pub transformed: Vec<Compared>,
}

/// Queries of a batch, the positive of each, and what they are told apart from. No tensor has a graph, and what a method
/// remembers is not copied: look before `after_step` moves it.
#[derive(Debug)]
pub struct Compared {
    /// `[N, d]`, in the order of the batch.
    pub queries: Tensor,
    /// `[N, d]`; the score of a query is its product with this row.
    pub positives: Tensor,
    /// What else there is.
    pub negatives: Negatives,
    /// Whether the rows are yet to be brought to unit length.
    pub to_unit: bool,
}

/// What the queries are told apart from.
#[derive(Debug)]
pub enum Negatives {
    /// Nothing: predictions of targets.
    None,
    /// The same rows `[K, d]` for all.
    Shared(Tensor, Excluded),
    /// For every query its own of the rows `[n, d]`, by index: i64 `[N, 1 + K]`, of which the first is the positive.
    Drawn(Tensor, Tensor),
}

/// Shared rows that are no negatives of a query.
#[derive(Debug)]
pub enum Excluded {
    /// All of them are negatives: a queue.
    Nothing,
    /// Rows are both views of the queries' images, first views first: of query i its own row i and its positive i + K/2.
    OwnPair,
    /// The columns that these say, i64 `[N, E]`; one may stand there twice.
    Columns(Tensor),
    /// Those of the query's label, i64 `[N]`; rows as in [`Self::OwnPair`].
    SameLabel(Tensor),
}

impl Scores {
    /// Projections `[2N, d]`, first views and then second ones: each row against all others.
    pub fn in_batch(projections: &Tensor, temperature: f64, excluded: Excluded) -> Self {
        let z = projections.detach();
        let images = z.size()[0] / 2;
        let compared = Compared {
            queries: z.narrow(0, 0, images),
            positives: z.narrow(0, images, images),
            negatives: Negatives::Shared(z, excluded),
            to_unit: true,
        };
        Self { temperature: Some(temperature), plain: vec![compared], transformed: Vec::new() }
    }

    /// Rows `[N, d]` of two views and nothing to tell them apart from; the cosines `[N]` after a transformation, where
    /// there is one.
    pub fn pairs(first: &Tensor, second: &Tensor, transformed: Option<&Tensor>) -> Self {
        let compared = Compared {
            queries: first.detach(),
            positives: second.detach(),
            negatives: Negatives::None,
            to_unit: true,
        };
        // A product of one column with ones is that column.
        let transformed = transformed.map(|cosines| {
            let queries = cosines.detach().view([-1, 1]);
            let positives = queries.ones_like();
            Compared { queries, positives, negatives: Negatives::None, to_unit: false }
        });
        Self {
            temperature: None,
            plain: vec![compared],
            transformed: transformed.into_iter().collect(),
        }
    }
}
