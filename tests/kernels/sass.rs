//! What the compiler made of the kernels: no kernel spills, and those that should use tensor cores do.
//!
//! Needs CUDA's disassembler, which stands beside nvcc (`KIUNGO_CUOBJDUMP` names another one).

use kiungo::device::cuda;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// cuobjdump, or why there is none.
fn cuobjdump() -> Result<PathBuf, &'static str> {
    if !cuda::has_kernels() {
        return Err("this build has no CUDA kernels");
    }
    let named = std::env::var_os("KIUNGO_CUOBJDUMP").map(PathBuf::from);
    let beside_nvcc = option_env!("KIUNGO_CUDA_BIN").map(|folder| Path::new(folder).join("cuobjdump"));
    let found = named.into_iter().chain(beside_nvcc).find(|path| path.exists());
    found.ok_or("no cuobjdump: install nvidia-cuda-cuobjdump, or set KIUNGO_CUOBJDUMP")
}

/// The machine code of every module.
static SASS: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| dump("-sass"));

/// What cuobjdump says of every module, by name.
pub fn dump(option: &str) -> Vec<(&'static str, String)> {
    let program = match cuobjdump() {
        Ok(program) => program,
        Err(why) => {
            eprintln!("skipped: {why}");
            return Vec::new();
        }
    };
    // It runs nvdisasm, from its own folder or the path.
    let folder = program.parent().unwrap_or(Path::new("")).to_path_buf();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path))).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let dump = |&(stem, image): &(&'static str, &[u8])| {
        let file = scratch.path().join(stem).with_extension("fatbin");
        std::fs::write(&file, image).unwrap();
        let output = Command::new(&program).env("PATH", &path).arg(option).arg(&file).output().unwrap();
        assert!(output.status.success(), "{stem}: {}", String::from_utf8_lossy(&output.stderr));
        (stem, String::from_utf8_lossy(&output.stdout).into_owned())
    };
    cuda::fatbins().par_iter().map(dump).collect()
}

#[test]
fn no_kernel_spills() {
    for (stem, usage) in dump("-res-usage") {
        let lines: Vec<&str> = usage.lines().map(str::trim).collect();
        for pair in lines.windows(2) {
            if let Some(kernel) = pair[0].strip_prefix("Function ") {
                let clean = pair[1].contains(" STACK:0 ") && pair[1].contains(" LOCAL:0 ");
                assert!(clean, "{stem}.cu, {kernel} uses local memory: {}", pair[1]);
            }
        }
    }
}

#[test]
fn products_run_on_tensor_cores_and_copies_are_wide() {
    for (stem, sass) in &*SASS {
        // Kernel by kernel, for each target.
        for kernel in sass.split("Function : ").skip(1) {
            let name = kernel.lines().next().unwrap_or_default().trim();
            let expected: &[&str] = match *stem {
                "gemm_sm90" | "attention_sm90" | "linear_sm90" | "linear_backward_sm90" | "linear_gemm_sm90" => {
                    &["HGMMA.64x", "UTMALDG.2D", "SYNCS"]
                }
                "linear_gemm_backward_sm90" => &["HGMMA.64x", "UTMALDG.2D", "SYNCS", "LDSM.16.MT88.4", "STG.E.128"],
                "attention_backward_sm90" => &["HGMMA.64x", "UTMALDG.2D", "SYNCS", "UBLKRED.G.S.ADD.F32"],
                "attention_statistics_sm90" => &["LDG.E.128"],
                "gemm_sm80" | "attention_sm80" | "attention_backward_sm80" | "attention_short_sm80" => {
                    &["HMMA.16816.F32.BF16", "LDSM.16", "LDGSTS.E.BYPASS."]
                }
                "lora_sm90" if name != "lora_sides" => &["HGMMA.64x", "UTMALDG.2D", "SYNCS"],
                "lora_sm90" => &["LDG.E.128", "STG.E.128"],
                "lora_sm80" if name.contains("thin") || name.contains("wide") => &["HMMA.16816.F32.BF16", "LDSM.16"],
                "linear_backward" if name == "linear_backward_sum" => &["LDG.E.128"],
                "linear_backward" => &["HMMA.16816.F32.BF16", "LDGSTS.E.BYPASS."],
                "linear" => &["HMMA.16816.F32.BF16"],
                "linear_few" => &["HMMA.16816.F32.BF16", "LDG.E.128", "LDGSTS.E.BYPASS.128"],
                "adamw_linear_sm90" if name == "adamw_linear_dx_sum" => &["LDG.E.128"],
                "adamw_linear_sm90" => {
                    &["HGMMA.64x128x16", "UTMALDG.2D", "SYNCS", "HMMA.16816.F32.BF16", "LDSM.16", "STG.E.128"]
                }
                "adamw_linear" if name == "adamw_linear_squares" => &["HMMA.16816.F32.BF16", "LDSM.16"],
                "adamw_linear" => &["HMMA.16816.F32.BF16", "LDSM.16", "LDG.E.128", "STG.E.128"],
                "embedding" if name.contains("one_hot") => &["STG.E.128"],
                "nf4" if name.contains("dequantize") => &["STG.E.128"],
                "nf4" if name.starts_with("nf4_quantize_bf16") => &["LDG.E.128", "STG.E.64"],
                "rmsnorm" if name == "rmsnorm_add_partials" => &[],
                "embedding" if name.contains("backward") => &[],
                "pooling" if name.contains("backward") => &["STG.E.128"],
                "swiglu" | "residual" | "adamw" | "rmsnorm" | "rope" | "embedding" | "pooling" => {
                    &["LDG.E.128", "STG.E.128"]
                }
                _ => &[],
            };
            for instruction in expected {
                assert!(kernel.contains(instruction), "{stem}.cu, {name} has no {instruction}");
            }
            assert!(!kernel.contains("LDL") && !kernel.contains("STL"), "{stem}.cu, {name} uses local memory");
        }
    }
}

/// Kernels may start before the launch before them has ended (`wait_for_launch`), so none may touch global memory before
/// it has waited; but for those that read weights in 4 bits (KERNEL_AHEAD), which only have to wait somewhere.
#[test]
fn kernels_wait_before_they_touch_memory() {
    const AHEAD: [&str; 2] = ["linear_sm90", "linear_backward_sm90"];
    let touches = [
        "LDG", "STG", "LDGSTS", "ATOMG", "RED.", "REDG", "UTMALDG", "UTMASTG", "UTMAREDG", "UBLKCP", "UBLKRED", " LD.",
        " ST.",
    ];
    for (stem, sass) in &*SASS {
        for cubin in sass.split("arch = ").skip(1).filter(|cubin| cubin.starts_with("sm_90")) {
            for kernel in cubin.split("Function : ").skip(1) {
                let name = kernel.lines().next().unwrap_or_default().trim();
                let waits = kernel.find("ACQBULK").unwrap_or_else(|| panic!("{stem}.cu, {name} never waits"));
                if AHEAD.contains(stem) {
                    continue;
                }
                let before = &kernel[..waits];
                let early = before.lines().find(|line| touches.iter().any(|instruction| line.contains(instruction)));
                assert!(early.is_none(), "{stem}.cu, {name} does not wait before {early:?}");
            }
        }
    }
}
