//! XQuAD, LAReQA's XQuAD-R, and other files of SQuAD's kind.

use super::{Collection, Passage, Question, Result, UNNAMED};
use crate::formats::squad::{Answer, Dataset, language_of_file, languages_in, open_languages};
use std::path::Path;

/// A folder of one file a language.
pub fn open_folder(path: &Path) -> Result<Collection> {
    Ok(collection(&open_languages(path, &languages_in(path)?)?))
}

/// One file; its name may say its language.
pub fn open_file(path: &Path) -> Result<Collection> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let language = language_of_file(&name);
    let mut found = collection(&[Dataset::open(path, language.unwrap_or(UNNAMED))?]);
    if language.is_none() {
        found.note("its language is unknown; a name as NAME.en.json would say it".into());
    }
    Ok(found)
}

/// Files that ask the same questions about the same paragraphs.
fn collection(datasets: &[Dataset]) -> Collection {
    let has_sentences = datasets.iter().any(|d| d.paragraphs().any(|p| !p.sentences.is_empty()));
    let of_xquad = datasets.iter().all(|d| d.questions().count() == 1190);
    let name = match (has_sentences, of_xquad) {
        (true, _) => "XQuAD-R",
        (false, true) => "XQuAD",
        (false, false) => "SQuAD",
    };
    let mut all = Collection { name: name.into(), ..Collection::default() };
    // For each language, the passage that answers each question.
    let answers: Vec<Vec<usize>> = datasets.iter().map(|d| add_passages(&mut all, d)).collect();
    for dataset in datasets {
        add_questions(&mut all, dataset, &answers);
    }
    for dataset in datasets {
        describe(&mut all, dataset);
    }
    all
}

fn add_passages(all: &mut Collection, dataset: &Dataset) -> Vec<usize> {
    let language = all.language(&dataset.language);
    let mut answers = vec![];
    for (article, paragraph) in
        dataset.articles.iter().enumerate().flat_map(|(i, a)| a.paragraphs.iter().map(move |p| (i, p)))
    {
        let first = all.passages.len();
        let mut add = |text: &str, within| {
            all.passages.push(Passage { language, text: text.into(), within, article, distractor: false });
        };
        if paragraph.sentences.is_empty() {
            add(&paragraph.context, None);
        } else {
            let place = all.paragraphs.len();
            let mut from = 0;
            for sentence in &paragraph.sentences {
                // A sentence that is not found, as it was edited, gets the place between its neighbours.
                let begin = paragraph.context[from..].find(sentence.as_str()).map(|i| from + i);
                let range = begin.map_or(from..from, |begin| begin..begin + sentence.len());
                from = range.end;
                add(sentence, Some((place, range)));
            }
            all.paragraphs.push(paragraph.context.clone());
        }
        answers.extend(paragraph.questions.iter().map(|q| first + q.sentence.unwrap_or(0)));
    }
    answers
}

fn add_questions(all: &mut Collection, dataset: &Dataset, answers: &[Vec<usize>]) {
    let language = all.language(&dataset.language);
    let ends = dataset.articles.iter().scan(0, |end, article| {
        *end += article.paragraphs.len();
        Some(*end)
    });
    let ends: Vec<usize> = ends.collect();
    for (i, (cluster, question)) in dataset.questions().enumerate() {
        all.questions.push(Question {
            id: question.id.clone(),
            language,
            text: question.text.clone(),
            relevant: answers.iter().map(|of_language| of_language[i]).collect(),
            cluster,
            article: ends.partition_point(|&end| end <= cluster),
        });
    }
}

/// Says what a file's answers and letters are like where they are not as expected.
fn describe(all: &mut Collection, dataset: &Dataset) {
    let count = |answer: Answer| dataset.questions().filter(|(_, q)| q.answer == answer).count();
    let language = &dataset.language;
    let (straddling, misplaced) = (count(Answer::Straddling), count(Answer::Misplaced));
    if straddling > 0 {
        all.note(format!(
            "{straddling} answers in {language} reach beyond a sentence; that in which they begin is right"
        ));
    }
    if misplaced > 0 {
        all.note(format!("{misplaced} answers in {language} do not stand where the file says; its place is believed"));
    }
    if dataset.respelled > 0 {
        all.note(format!("{} cedilla letters in {language} became comma-below ones", dataset.respelled));
    }
}
