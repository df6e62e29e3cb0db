"""Makes simclr_tf.json and the folder tensorflow/: what SimCLR's own TensorFlow code calls its variables, in which shapes,
and what its networks answer; and small checkpoints written by TensorFlow itself.

simclr_tf.json holds, for every published network and some others, the number of variables and a CRC-32 of their sorted
listing ("name shape" a line), and for narrow networks the variables with the features of two images. Values are not stored:
both sides fill a variable with the same hash of its name and position.

Run: python tests/golden/simclr_tf.py CHECKOUT   (a checkout of google-research/simclr; TensorFlow 2.15, numpy 1.26)
"""

import json
import pathlib
import shutil
import sys
import zlib

import numpy as np
import tensorflow as tf2
import tensorflow.compat.v1 as tf

HERE = pathlib.Path(__file__).parent
INPUT = 1 << 20
sys.path.insert(0, sys.argv[1])
from absl import flags  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_bool("global_bn", False, "")
for _name, _value in [("batch_norm_decay", 0.9), ("sk_ratio", 0.0), ("se_ratio", 0.0)]:
    flags.DEFINE_float(_name, _value, "")
for _name, _value in [("fine_tune_after_block", -1), ("ft_proj_selector", 0), ("num_proj_layers", 3), ("proj_out_dim", 128)]:
    flags.DEFINE_integer(_name, _value, "")
for _name, _value in [("train_mode", "pretrain"), ("proj_head_mode", "nonlinear")]:
    flags.DEFINE_string(_name, _value, "")
import model_util  # noqa: E402
import resnet  # noqa: E402

FLAGS(["simclr_tf.py"])
tf.disable_eager_execution()


def noise(tag, shape):
    """Uniform in [-1, 1), 24 bits, from the tag and the position in row-major order."""
    x = (np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(tag << 32)) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> np.uint64(32)
    return ((x >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1.0).reshape(shape)


def value(name, shape):
    u = noise(zlib.crc32(name.encode()) & 0xFFFFF, shape)
    end = name.split("/")[-1]
    if end == "kernel":
        return u * np.sqrt(3.0 / np.prod(shape[:-1]))
    return {"moving_variance": 1.0 + 0.3 * u, "gamma": 1.0 + 0.2 * u}.get(end, 0.1 * u)


def build(depth, width, sk, stem, projector, classes, images):
    """The network in a fresh graph: its features, projections and logits."""
    FLAGS.sk_ratio = 0.0625 if sk else 0.0
    FLAGS.num_proj_layers, FLAGS.proj_out_dim = projector or 3, 128 if width >= 1 else 16
    FLAGS.train_mode = "pretrain"
    network = resnet.resnet_v1(depth, width, cifar_stem=stem == "cifar")
    with tf.variable_scope("base_model"):
        h = network(images, is_training=False)
    answers = {"h": h}
    if projector:
        answers["z"] = model_util.projection_head(h, False)
    if classes:
        answers["logits"] = model_util.supervised_head(h, classes, False)
    return answers


def variables():
    return sorted((v.op.name, [int(s) for s in v.shape]) for v in tf.global_variables())


def tables():
    """Sizes and checksums of the listings of whole networks."""
    published = [(50, w, False, 0) for w in (1, 2, 4)]
    published += [(d, w, sk, 3) for d in (50, 101) for w in (1, 2) for sk in (False, True)]
    published += [(152, w, sk, 3) for w in (1, 2) for sk in (False, True)] + [(152, 3, True, 3)]
    others = [(18, 1, False, 2), (34, 1, False, 2), (200, 2, False, 0)]
    found = []
    for depth, width, sk, projector in published + others:
        with tf.Graph().as_default():
            build(depth, width, sk, "imagenet", projector, 1000, tf.zeros([1, 64, 64, 3]))
            listing = variables()
        text = "".join(f"{name} {' '.join(map(str, shape))}\n" for name, shape in listing)
        backbone = sum(name.startswith("base_model/") for name, _ in listing)
        found.append(
            {
                "depth": depth,
                "width": width,
                "sk": sk,
                "projector": projector,
                "variables": len(listing),
                "backbone": backbone,
                "crc32": zlib.crc32(text.encode()),
            }
        )
        print(found[-1])
    return found


def answers():
    """Features of narrow networks, at sides that meet odd and even maps at every pool."""
    found = []
    for depth, width, sk, stem, projector in [
        (50, 0.125, False, "imagenet", 3),
        (50, 0.125, True, "imagenet", 3),
        (18, 0.125, False, "imagenet", 2),
        (34, 0.125, False, "cifar", 0),
        (50, 0.125, True, "cifar", 0),
    ]:
        with tf.Graph().as_default():
            shape = (2, 3, 16, 16) if stem == "cifar" else (2, 3, 70, 72)
            images = tf.constant(noise(INPUT, shape).transpose(0, 2, 3, 1).astype(np.float32))
            outputs = build(depth, width, sk, stem, projector, 10, images)
            listing = variables()
            with tf.Session() as session:
                for variable in tf.global_variables():
                    shape_ = [int(s) for s in variable.shape]
                    variable.load(value(variable.op.name, shape_).astype(np.float32), session)
                results = session.run(outputs)
        found.append(
            {
                "depth": depth,
                "width": width,
                "sk": sk,
                "stem": stem,
                "projector": projector,
                "images": shape,
                "variables": listing,
                **{name: result.flatten().tolist() for name, result in results.items()},
            }
        )
    return found


def checkpoints():
    """One of each kind, small."""
    folder = HERE / "tensorflow"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with tf.Graph().as_default(), tf.Session() as session:
        with tf.variable_scope("base_model"):
            tf.get_variable("conv2d/kernel", initializer=tf.constant(noise(1, (3, 3, 2, 4)).astype(np.float32)))
            tf.get_variable("conv2d_10/kernel", initializer=tf.constant(noise(2, (1, 1, 4, 4)).astype(np.float32)))
            tf.get_variable("conv2d_2/kernel", initializer=tf.constant(noise(3, (1, 1, 4, 4)).astype(np.float32)))
        tf.get_variable("global_step", initializer=tf.constant(7, tf.int64))
        tf.get_variable("half", initializer=tf.constant([0.5, -2.0], tf.float16))
        tf.get_variable("brain", initializer=tf.constant([0.5, -2.0], tf.bfloat16))
        tf.get_variable("wide", initializer=tf.constant([1e300], tf.float64))
        tf.get_variable("flags", initializer=tf.constant([True, False, True]))
        tf.get_variable("words", initializer=tf.constant(["", "two", "three" * 60]))
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(folder / "model.ckpt"), global_step=7, write_meta_graph=False)
    text = folder / "checkpoint"
    text.write_text(text.read_text().replace(f"{folder}/", ""))
    with tf.Graph().as_default(), tf.Session() as session:
        cut = tf.get_variable(
            "cut", shape=[4, 2], partitioner=tf.fixed_size_partitioner(2), initializer=tf.zeros_initializer()
        )
        del cut
        session.run(tf.global_variables_initializer())
        (folder / "partitioned").mkdir()
        tf.train.Saver().save(session, str(folder / "partitioned" / "cut"), write_meta_graph=False)
        (folder / "partitioned" / "checkpoint").unlink()
    code = f"""
import tensorflow as tf, numpy as np
layer = tf.keras.layers.Conv2D(2, 1, name="conv2d_3")
layer.build((None, 4, 4, 3))
layer.set_weights([np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2), np.array([7, 8], np.float32)])
tf.train.Checkpoint(model=layer, step=tf.Variable(3, dtype=tf.int64)).write({str(folder / 'objects' / 'ckpt')!r})
"""
    import subprocess

    subprocess.run([sys.executable, "-c", code], check=True)


checkpoints()
result = {"tables": tables(), "answers": answers()}
(HERE / "simclr_tf.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")
