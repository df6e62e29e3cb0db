//! Through the program: runs of methods that remember are killed and end with the same bytes; doubtful groups are told.

use diptych::random::{Purpose, Scope, Stream};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const STEPS: u64 = 60;

/// The recipe of a run: its method, its plug-ins, and how many views it takes.
fn recipe(method: &str, plugins: &str, views: usize) -> String {
    format!(
        "[data]\nsource = \"synthetic:scenes?train=64&test=24\"\nbatch_size = 8\nmicro_batch_size = 4\n\
         [backbone]\nname = \"resnet18\"\nwidth = 0.0625\nstem = \"imagenet\"\nnorm_group = 4\n\
         [method]\n{method}\n{plugins}\n\
         [train]\nepochs = 1\nmax_steps = {STEPS}\ncheckpoint_every_steps = 1\nthreads = 1\n\
         optimizer = {{ name = \"sgd\", learning_rate = 0.06, weight_decay = 5e-4 }}\n\
         schedule = {{ name = \"cosine\" }}\nknn = {{ every_epochs = 0 }}\n\
         [[view]]\ncount = {views}\n\
         steps = [{{ name = \"random_resized_crop\", size_px = 32 }}, {{ name = \"flip\" }}, \
         {{ name = \"normalize\", mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }}]\n"
    )
}

fn program(recipe: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
    command.arg("pretrain").arg(recipe).arg("--out").arg(out);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(recipe: &Path, out: &Path) -> Vec<u8> {
    let output = program(recipe, out).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(out.join("checkpoints/last.safetensors")).unwrap()
}

/// Kills the run a few times, each time some steps further on, and lets it end.
fn survives(method: &str, plugins: &str, views: usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recipe.toml");
    fs::write(&file, recipe(method, plugins, views)).unwrap();
    let whole = finish(&file, &folder.path().join("whole"));

    let out = folder.path().join("killed");
    let last = out.join("checkpoints/last.safetensors");
    let mut stream = Stream::open(21, Purpose::Test, Scope::Item(0));
    for life in 0..4 {
        let before = fs::read(&last).ok();
        let mut child = program(&file, &out).spawn().unwrap();
        let started = Instant::now();
        while fs::read(&last).ok() == before && started.elapsed() < Duration::from_mins(1) {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_micros(stream.below(60_000)));
        assert!(child.try_wait().unwrap().is_none(), "life {life} ended: give it more steps");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(finish(&file, &out) == whole, "the last checkpoint differs");
}

#[test]
fn a_killed_moco_with_feature_transformation_and_cross_level_discrimination_goes_on() {
    let method = "name = \"moco\"\nqueue_length = 24\nmomentum = 0.9\nsymmetric = \"mean\"";
    let plugins = "[plugins.feature_transformation]\n[plugins.cross_level]\ngroups = 2";
    survives(method, plugins, 2);
}

#[test]
fn a_killed_npid_with_cross_level_discrimination_goes_on() {
    let method = "name = \"npid\"\nobjective = \"nce\"\nnegatives = 16";
    survives(method, "[plugins.cross_level]\ngroups = 2", 2);
}

#[test]
fn a_killed_byol_with_a_guided_stop_gradient_goes_on() {
    let method = "name = \"byol\"\nmomentum = 0.9\n\
        projector = { hidden = 32, output = 16 }\npredictor = { hidden = 32, output = 16 }";
    survives(method, "[plugins.guided_stop_gradient]", 4);
}

#[test]
fn too_many_groups_for_the_images_of_a_rank_are_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recipe.toml");
    let out = folder.path().join("run");
    let warns = |plugin: &str| {
        let plugin = format!("[plugins.cross_level]\ngroups = 2\n{plugin}");
        fs::write(&file, recipe("name = \"npid\"", &plugin, 2)).unwrap();
        let mut command = program(&file, &out);
        let output = command.args(["train.max_steps=1", "--fresh"]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        let warning = "warning: `plugins.cross_level.groups` is 2 for 4 images grouped together";
        let logged = fs::read_to_string(out.join("log.txt")).unwrap().contains(warning);
        assert_eq!(text.contains(warning), logged);
        logged
    };
    assert!(warns("per_rank = true"));
    // The whole batch has twice as many.
    assert!(!warns(""));
}
