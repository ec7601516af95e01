mod collection;
mod damage;
mod kiungo_json;
mod nf4;
mod output;
mod pairs;
mod peft;
mod safetensors;
mod squad;
mod text;
mod tokenizer;
mod weights;

/// An error's words with a folder's path cut out, so that they can be compared whole.
fn words(error: impl std::fmt::Display, folder: &std::path::Path) -> String {
    let canonical = folder.canonicalize().expect("a folder");
    let text = error.to_string().replace(&format!("{}/", canonical.display()), "");
    text.replace(&format!("{}/", folder.display()), "").replace(&folder.display().to_string(), "FOLDER")
}
