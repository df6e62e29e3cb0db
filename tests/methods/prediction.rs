//! SimSiam and BYOL by hand, plain and with a guided stop-gradient.

use crate::hand::{
    Named, PLAIN, PLAIN_PREDICTOR, cosine, equal, images, method, objective, rows, values,
};
use crate::made::{BATCH, at, config, labels, plugins};
use diptych::plugin::Plugins;
use diptych::random::Purpose;
use tch::Tensor;

/// Predictions of every view and what they are compared with, by hand.
fn compared(
    name: &str,
    named: &Named,
    online: &Tensor,
    targets: &Tensor,
) -> [Vec<Vec<Vec<f64>>>; 2] {
    let z = |view: i64| named.head("projector", &online.select(0, view));
    let target = |view: i64| match name {
        "byol" => named.head("momentum.projector", &targets.select(0, view)),
        _ => z(view),
    };
    let views = online.size()[0];
    let p = (0..views).map(|view| values(&named.head("predictor", &z(view)))).collect();
    [p, (0..views).map(|view| values(&target(view))).collect()]
}

/// The mean cosine as a method's loss.
fn scaled(name: &str, negative_cosine: f64) -> f64 {
    if name == "byol" { 4.0 + 4.0 * negative_cosine } else { negative_cosine }
}

#[test]
fn each_view_predicts_the_other() {
    for name in ["simsiam", "byol"] {
        let config = config(name, &[PLAIN, PLAIN_PREDICTOR].concat());
        let method = method(&config, &Plugins::default(), 0);
        let (online, targets) = (rows(1, 2), rows(2, 2));
        let named = Named::of(method.as_ref());
        let seen = (name == "byol").then_some(&targets);
        let found = objective(method.as_ref(), 0, &online, seen, 1);
        let [p, z] = compared(name, &named, &online, &targets);
        let sum: f64 =
            (0..BATCH).map(|i| cosine(&p[0][i], &z[1][i]) + cosine(&p[1][i], &z[0][i])).sum();
        equal(found.loss, scaled(name, -sum / 2.0 / BATCH as f64));
    }
}

#[test]
fn a_guided_stop_gradient_lets_the_closest_views_predict() {
    for (name, text) in ["simsiam", "byol"].into_iter().flat_map(|name| {
        ["", "partner_views = \"reuse\"", "derangement = true"].map(|text| (name, text))
    }) {
        let plugins = plugins(&format!("[guided_stop_gradient]\n{text}\n"));
        let guided = plugins.guided_stop_gradient.as_ref().unwrap();
        let config = config(name, &[PLAIN, PLAIN_PREDICTOR].concat());
        let method = method(&config, &plugins, 0);
        let views = guided.views();
        let (online, targets) = (rows(1, views as i64), rows(2, views as i64));
        let named = Named::of(method.as_ref());
        let seen = (name == "byol").then_some(&targets);
        let found = objective(method.as_ref(), 3, &online, seen, 1);

        let (images, labels) = (images(3), labels());
        let mut stream = at(3, &images, &labels, 1).stream(Purpose::Partner, 0);
        let partners = Vec::<i64>::try_from(guided.partners(BATCH, &mut stream).unwrap()).unwrap();
        let [p, z] = compared(name, &named, &online, &targets);
        let distance = |a: &[f64], b: &[f64]| {
            a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
        };
        let mut total = 0.0;
        for (i, partner) in partners.iter().enumerate() {
            let r = *partner as usize;
            let [third, fourth] = [views - 2, views - 1];
            // The closest pair of a view of the image and one of its partner.
            let pairs = [(0, third), (0, fourth), (1, third), (1, fourth)];
            let (mine, theirs) = pairs
                .into_iter()
                .min_by(|a, b| {
                    let [a, b] = [a, b].map(|(a, b)| distance(&z[*a][i], &z[*b][r]));
                    a.total_cmp(&b)
                })
                .unwrap();
            let other = |view: usize| view ^ 1;
            total -= cosine(&p[mine][i], &z[other(mine)][i]);
            total -= cosine(&p[theirs][r], &z[other(theirs)][r]);
        }
        equal(found.loss, scaled(name, total / 2.0 / BATCH as f64));
    }
}
