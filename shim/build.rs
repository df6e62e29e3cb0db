//! Compiles `recorder.cpp` against the headers of the libtorch that `torch-sys` found, as `torch-sys` compiles its own.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/recorder.cpp");
    for name in ["LIBTORCH_USE_PYTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_CXX11_ABI"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    // What `torch-sys` hands on, whichever way it found libtorch: LIBTORCH, a Python with torch, or /usr/lib.
    let lib = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).expect(
        "torch-sys does not say where libtorch lies; set LIBTORCH to a libtorch 2.11, or LIBTORCH_USE_PYTORCH=1",
    );
    let elsewhere = env::var_os("LIBTORCH_INCLUDE").map(PathBuf::from);
    let elsewhere = elsewhere.filter(|_| env::var_os("LIBTORCH_USE_PYTORCH").is_none());
    let include = elsewhere.unwrap_or_else(|| lib.join("..")).join("include");
    assert!(
        include.join("ATen/record_function.h").is_file(),
        "`{}` has no ATen/record_function.h: the headers of libtorch belong beside its libraries; set LIBTORCH to a whole \
         libtorch 2.11, or LIBTORCH_INCLUDE to the folder that holds its `include`",
        include.display()
    );
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .opt_level(2)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .flag("-std=c++17")
        .flag(format!("-D_GLIBCXX_USE_CXX11_ABI={abi}"))
        .file("src/recorder.cpp")
        .compile("diptych_shim");
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    // For the tests beside; a program says this for itself.
    let lib = lib.canonicalize().unwrap_or(lib);
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
