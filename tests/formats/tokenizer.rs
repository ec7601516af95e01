use super::words;
use kiungo::formats::tokenizer::{Bos, Encoded, Tokenizer};
use kiungo::llama::config::Config;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const BOS: u32 = 1;
const EOS: u32 = 2;
const ROWS: usize = 9;

fn config(rows: usize, bos: Option<u32>) -> Config {
    let json = json!({"model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
                      "num_attention_heads": 4, "rms_norm_eps": 1e-5, "max_position_embeddings": 512,
                      "vocab_size": rows, "bos_token_id": bos});
    Config::parse(Path::new("config.json"), &json.to_string()).unwrap()
}

/// A tokenizer of whole words, with the settings for padding and truncation that its last user left in it.
fn tokenizer(post_processor: Value) -> (TempDir, Tokenizer) {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false})
    };
    let file = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": [special(0, "<unk>"), special(BOS, "<s>"), special(EOS, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": post_processor,
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "<unk>",
                  "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "maji": 3, "moto": 4, "tiếng": 5, "a": 6, "b": 8}}
    });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path(), &config(ROWS, Some(BOS))).unwrap();
    (folder, tokenizer)
}

/// Puts `<s>` in front and, where asked, `</s>` behind.
fn template(eos: bool) -> Value {
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let mut single = vec![special("<s>"), json!({"Sequence": {"id": "A", "type_id": 0}})];
    if eos {
        single.push(special("</s>"));
    }
    let tokens = |id: u32, content: &str| json!({"id": content, "ids": [id], "tokens": [content]});
    json!({"type": "TemplateProcessing", "single": single, "pair": single,
           "special_tokens": {"<s>": tokens(BOS, "<s>"), "</s>": tokens(EOS, "</s>")}})
}

fn encoded(ids: &[u32], truncated: bool) -> Encoded {
    Encoded { ids: ids.to_vec(), truncated }
}

#[test]
fn a_bos_is_added_where_there_is_none() {
    let (_folder, plain) = tokenizer(Value::Null);
    let encode = |bos| plain.encode("maji moto a", bos, 512).unwrap();
    assert_eq!(encode(Bos::Add), encoded(&[BOS, 3, 4, 6], false));
    assert_eq!(encode(Bos::Tokenizer), encoded(&[3, 4, 6], false));

    let (_folder, with_bos) = tokenizer(template(false));
    for bos in [Bos::Add, Bos::Tokenizer] {
        assert_eq!(with_bos.encode("maji", bos, 512).unwrap(), encoded(&[BOS, 3], false));
    }
}

#[test]
fn texts_are_composed_first() {
    let (_folder, plain) = tokenizer(Value::Null);
    let ids = |text| plain.encode(text, Bos::Tokenizer, 512).unwrap().ids;
    assert_eq!(ids("tie\u{302}\u{301}ng"), [5]);
}

#[test]
fn truncation_keeps_the_special_tokens() {
    let (_folder, both) = tokenizer(template(true));
    let encode = |max| both.encode("maji moto a", Bos::Add, max).unwrap();
    assert_eq!(encode(5), encoded(&[BOS, 3, 4, 6, EOS], false));
    assert_eq!(encode(4), encoded(&[BOS, 3, 4, EOS], true));
    assert_eq!(encode(3), encoded(&[BOS, 3, EOS], true));
    let error = both.encode("maji", Bos::Add, 2).unwrap_err().to_string();
    assert_eq!(error, "a maximum of 2 tokens leaves no room beside 2 special ones");
    let (_folder, plain) = tokenizer(Value::Null);
    assert_eq!(plain.encode("maji moto", Bos::Add, 2).unwrap(), encoded(&[BOS, 3], true));
}

#[test]
fn bad_texts_and_files_are_refused() {
    let (folder, plain) = tokenizer(template(true));
    let error = |text| plain.encode(text, Bos::Add, 512).unwrap_err().to_string();
    assert_eq!(error(" \n"), r#"" \n" gives no tokens; leave it out"#);
    let no_bos = Tokenizer::open(folder.path(), &config(ROWS, None)).unwrap();
    let error = no_bos.encode("maji", Bos::Add, 512).unwrap_err();
    let expected = "tokenizer.json: the model's config.json has no bos_token_id to add; use --bos tokenizer";
    assert_eq!(words(error, folder.path()), expected);

    let error = |rows| words(Tokenizer::open(folder.path(), &config(rows, None)).err().unwrap(), folder.path());
    let expected = "tokenizer.json: token ids go up to 8, but the model's embedding has 8 rows; take the tokenizer of the same checkpoint";
    assert_eq!(error(8), expected);
    let hint = "expected a tokenizer.json as Hugging Face's tokenizers library writes it";
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    assert_eq!(error(9), format!("tokenizer.json: Model missing. at line 1 column 2; {hint}"));
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    assert_eq!(error(9), format!("tokenizer.json: No such file or directory (os error 2); {hint}"));
}

#[test]
fn words_for_bos_go_both_ways() {
    for bos in [Bos::Add, Bos::Tokenizer] {
        assert_eq!(bos.to_string().parse::<Bos>().unwrap(), bos);
    }
    let error = "none".parse::<Bos>().unwrap_err();
    assert_eq!(error, "`none` is not a way to begin a sequence; expected add or tokenizer");
}
