//! Compiles `kernels/*.cu` to fatbins and `kernels/params.h` to Rust structs.
//!
//! Without nvcc the crate builds without CUDA kernels and says so in one line. `KIUNGO_CUDA=require` makes that
//! an error, `KIUNGO_CUDA=off` does not look for nvcc. Never asks for a GPU: the targets are fixed.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::atomic::{AtomicUsize, Ordering};

const INSTALL: &str =
    "python3 -m venv .venv && .venv/bin/pip install 'cuda-toolkit[nvcc,crt,nvvm,cudart,cccl]==13.0.2'";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    for name in ["KIUNGO_CUDA", "NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "VIRTUAL_ENV", "LIBCLANG_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let nvcc = match env::var("KIUNGO_CUDA").as_deref() {
        Ok("off") => None,
        mode => match find_nvcc() {
            Ok(nvcc) => Some(nvcc),
            Err(tried) if mode == Ok("require") => {
                fail(&format!("KIUNGO_CUDA=require, and no nvcc was found. Tried {tried}. Set NVCC, or: {INSTALL}"))
            }
            Err(_) => {
                println!(
                    "cargo::warning=no nvcc found: building without CUDA kernels, everything runs on the CPU (to have them: {INSTALL})"
                );
                None
            }
        },
    };
    if let Some(version) = nvcc.as_deref().and_then(version) {
        println!("cargo::rustc-env=KIUNGO_NVCC={version}");
    }
    // The tests disassemble the kernels with what stands beside nvcc.
    if let Some(folder) = nvcc.as_deref().and_then(Path::parent) {
        println!("cargo::rustc-env=KIUNGO_CUDA_BIN={}", folder.display());
    }
    let sources = kernel_sources();
    let fatbins = nvcc.as_deref().map(|nvcc| compile_all(nvcc, &sources, &out)).unwrap_or_default();
    write_fatbin_table(&fatbins, &out);
    bindings(nvcc.is_some(), &out);
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}

fn kernel_sources() -> Vec<PathBuf> {
    let entries = fs::read_dir("kernels").unwrap_or_else(|e| fail(&format!("kernels/: {e}")));
    let mut sources: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "cu")).collect();
    sources.sort();
    sources
}

/// The first nvcc that answers, or the places that were tried.
fn find_nvcc() -> Result<PathBuf, String> {
    let mut candidates: Vec<PathBuf> = env::var_os("NVCC").map(PathBuf::from).into_iter().collect();
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        candidates.extend(env::var_os(name).map(|p| Path::new(&p).join("bin/nvcc")));
    }
    if let Some(path) = env::var_os("PATH") {
        candidates.extend(env::split_paths(&path).map(|d| d.join("nvcc")));
    }
    candidates.push("/usr/local/cuda/bin/nvcc".into());
    // pip's layout: <venv>/lib/python3.X/site-packages/nvidia/cu13/bin/nvcc
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let venvs = env::var_os("VIRTUAL_ENV").map(PathBuf::from).into_iter().chain([root.join(".venv")]);
    for venv in venvs {
        let pythons = fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
        candidates.extend(pythons.map(|d| d.path().join("site-packages/nvidia/cu13/bin/nvcc")));
    }
    let answers = |c: &PathBuf| Command::new(c).arg("--version").output().is_ok_and(|o| o.status.success());
    let tried = candidates.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ");
    candidates.into_iter().find(answers).ok_or(tried)
}

/// `13.0.88`, of `Cuda compilation tools, release 13.0, V13.0.88`.
fn version(nvcc: &Path) -> Option<String> {
    let output = Command::new(nvcc).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().find_map(|word| word.strip_prefix('V')).map(str::to_string)
}

/// The targets of a kernel file, by the end of its name.
fn targets(stem: &str) -> &'static [&'static str] {
    const SM80: &str = "arch=compute_80,code=[sm_80,compute_80]";
    const SM90: &str = "arch=compute_90a,code=sm_90a";
    match stem {
        s if s.ends_with("_sm90") => &[SM90],
        _ => &[SM80, SM90],
    }
}

/// Compiles all sources, as many at a time as there are cores. Returns (stem, fatbin).
fn compile_all(nvcc: &Path, sources: &[PathBuf], out: &Path) -> Vec<(String, PathBuf)> {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    let work = || {
        while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            compile(nvcc, source, out);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    sources.iter().map(|s| (stem(s), fatbin_path(s, out))).collect()
}

fn stem(source: &Path) -> String {
    source.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn fatbin_path(source: &Path, out: &Path) -> PathBuf {
    out.join(stem(source)).with_extension("fatbin")
}

fn compile(nvcc: &Path, source: &Path, out: &Path) {
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-std=c++17", "-O3", "-lineinfo", "-Xptxas=--warn-on-spills", "-Ikernels"]);
    for target in targets(&stem(source)) {
        command.args(["-gencode", target]);
    }
    command.arg("-o").arg(fatbin_path(source, out)).arg(source);
    let output = command.output().unwrap_or_else(|e| fail(&format!("{}: {e}", nvcc.display())));
    for line in String::from_utf8_lossy(&output.stderr).lines().filter(|l| !l.trim().is_empty()) {
        println!("cargo::warning={line}");
    }
    if !output.status.success() {
        fail(&format!("{} could not compile {} ({})", nvcc.display(), source.display(), output.status));
    }
}

/// `fatbins.rs`: the modules that `device::cuda` embeds. Empty in a build without nvcc.
fn write_fatbin_table(fatbins: &[(String, PathBuf)], out: &Path) {
    let rows: String =
        fatbins.iter().map(|(stem, path)| format!("    ({stem:?}, include_bytes!({:?})),\n", path.display())).collect();
    let all = fatbins.iter().flat_map(|(stem, _)| targets(stem)).copied().collect::<BTreeSet<_>>();
    let cards: BTreeSet<&str> = all.into_iter().flat_map(code_of).collect();
    let table = format!(
        "static FATBINS: &[(&str, &[u8])] = &[\n{rows}];\nstatic TARGETS: &[&str] = &{:?};\n",
        Vec::from_iter(cards)
    );
    write(&out.join("fatbins.rs"), &table);
}

/// The machine codes in a target: `sm_80` and `compute_80` (PTX, for later cards too).
fn code_of(target: &str) -> impl Iterator<Item = &str> {
    let code = target.split("code=").nth(1).unwrap_or_default();
    code.trim_matches(['[', ']']).split(',')
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())));
}

/// `params.rs`: the structs of `kernels/params.h`. Made by bindgen where there is a libclang, else taken from
/// the copy beside the header, which CI keeps fresh (`KIUNGO_BINDINGS=write` writes it).
fn bindings(have_nvcc: bool, out: &Path) {
    println!("cargo:rerun-if-env-changed=KIUNGO_BINDINGS");
    let write_copy = env::var("KIUNGO_BINDINGS").as_deref() == Ok("write");
    let copy = Path::new("kernels/params.rs");
    let made = if have_nvcc || write_copy { generate() } else { None };
    match made {
        Some(text) => {
            write(&out.join("params.rs"), &text);
            if write_copy {
                write(copy, &text);
            }
        }
        None if write_copy => fail(
            "KIUNGO_BINDINGS=write needs libclang (apt-get install libclang1-14, or pip install libclang and set LIBCLANG_PATH)",
        ),
        None => {
            let text = fs::read_to_string(copy).unwrap_or_else(|e| fail(&format!("{}: {e}", copy.display())));
            write(&out.join("params.rs"), &text);
        }
    }
}

/// The header's bindings, or None where no libclang can be loaded (bindgen panics then, and says so itself).
fn generate() -> Option<String> {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let made = std::panic::catch_unwind(|| {
        bindgen::Builder::default()
            .header("kernels/params.h")
            .allowlist_file(".*/params\\.h")
            .derive_default(true)
            .disable_header_comment()
            .layout_tests(false)
            .formatter(bindgen::Formatter::Prettyplease)
            .parse_callbacks(Box::new(PodDerives))
            .generate()
    });
    std::panic::set_hook(quiet);
    match made {
        Ok(Ok(bindings)) => Some(bindings.to_string()),
        Ok(Err(e)) => fail(&format!("bindgen cannot read kernels/params.h: {e}")),
        Err(_) => None,
    }
}

/// Pod refuses structs with padding: a check of the layout that both languages must share.
#[derive(Debug)]
struct PodDerives;

impl bindgen::callbacks::ParseCallbacks for PodDerives {
    fn add_derives(&self, info: &bindgen::callbacks::DeriveInfo<'_>) -> Vec<String> {
        match info.kind {
            bindgen::callbacks::TypeKind::Struct => vec!["::bytemuck::Pod".into(), "::bytemuck::Zeroable".into()],
            _ => vec![],
        }
    }
}
