//! Which questions search which passages: the settings that the field scores, on one set of vectors.

use super::bm25;
use super::embed::Reading;
use super::maps::Map;
use super::questions::Vectors;
use super::scores::{ScoreError, Scores};
use super::{Embeddings, Means};
use crate::device::Device;
use crate::formats::collection::Collection;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A family of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Views {
    /// Questions in other languages over English passages: the primary endpoint.
    English,
    /// Over passages of their own language.
    Own,
    /// Over each language's passages.
    Matrix,
    /// Over all languages' passages together, all translations being right: measures of language bias.
    Pooled,
    /// Over those of their own language, equal texts being one, as MTEB's XQuADRetrieval counts.
    Mteb,
}
crate::words::words! { Views: "view" {
    English = "english", Own = "own", Matrix = "matrix", Pooled = "pooled", Mteb = "mteb"
} }

/// What is done to embeddings before they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Treatment {
    /// Nothing.
    Plain,
    /// The mean of a language's questions, or passages, is subtracted: transductive, for it needs them all.
    Centred,
    /// The same for each question, with means from other articles than its own.
    CrossFitted,
    /// Questions go through an orthogonal map fitted on pairs.
    Procrustes,
    /// Questions go through a ridge regression fitted on pairs.
    Ridge,
    /// No embeddings: shared words.
    Bm25,
}
crate::words::words! { Treatment: "treatment" {
    Plain = "plain", Centred = "centred", CrossFitted = "cross-fitted", Procrustes = "procrustes", Ridge = "ridge",
    Bm25 = "bm25"
} }

/// Candidates of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Corpus {
    /// Passages of a language.
    Language(usize),
    /// The same, and distractors.
    Harder(usize),
    /// Of all languages.
    All,
}

/// Questions and their candidates.
#[derive(Clone, Debug)]
pub struct View {
    /// Language of the questions, `all` where they are of every language.
    pub questions: String,
    /// Language of the passages, with what else they are.
    pub passages: String,
    /// The family that it was asked for with.
    pub family: Views,
    /// The questions: those that have an answer among the candidates.
    pub asked: Vec<usize>,
    /// The candidates.
    pub candidates: Vec<usize>,
    /// For each question asked, the places in `candidates` that answer it.
    pub relevant: Vec<Vec<usize>>,
    /// For a map from other languages to English.
    to_english: bool,
}

/// The views of a family, in the order of the collection's languages.
pub fn views(collection: &Collection, family: Views) -> Vec<View> {
    let english = collection.english();
    let known = own_texts(collection);
    let is_harder = collection.passages.iter().any(|p| p.distractor && !known.contains(p.text.as_str()));
    let mut found = vec![];
    let mut add = |asked: Option<usize>, corpus: Corpus| found.extend(View::new(collection, family, asked, corpus));
    for asked in collection.question_languages() {
        match family {
            // English questions have English passages as their own.
            Views::English => {
                english.into_iter().filter(|&e| e != asked).for_each(|e| add(Some(asked), Corpus::Language(e)))
            }
            Views::Own | Views::Mteb => add(Some(asked), Corpus::Language(asked)),
            Views::Matrix => (0..collection.languages.len()).for_each(|l| add(Some(asked), Corpus::Language(l))),
            Views::Pooled => add(Some(asked), Corpus::All),
        }
        if family == Views::English && Some(asked) != english && is_harder {
            english.into_iter().for_each(|e| add(Some(asked), Corpus::Harder(e)));
        }
    }
    if family == Views::Pooled {
        add(None, Corpus::All);
    }
    found
}

/// Texts that answer. A distractor that is one of them would tie with it, and no search could tell the two apart.
fn own_texts(collection: &Collection) -> HashSet<&str> {
    collection.passages.iter().filter(|p| !p.distractor).map(|p| p.text.as_str()).collect()
}

impl View {
    /// None where nothing is asked, or nothing can be found.
    fn new(collection: &Collection, family: Views, language: Option<usize>, corpus: Corpus) -> Option<View> {
        let known = if matches!(corpus, Corpus::Harder(_)) { own_texts(collection) } else { HashSet::new() };
        let is_candidate = |&i: &usize| {
            let passage = &collection.passages[i];
            match corpus {
                Corpus::Language(l) => passage.language == l && !passage.distractor,
                Corpus::Harder(l) => {
                    passage.language == l && !(passage.distractor && known.contains(passage.text.as_str()))
                }
                Corpus::All => !passage.distractor,
            }
        };
        let mut candidates: Vec<usize> = (0..collection.passages.len()).filter(is_candidate).collect();
        let mut places: HashMap<usize, usize> = candidates.iter().enumerate().map(|(place, &p)| (p, place)).collect();
        if family == Views::Mteb {
            (candidates, places) = merge_equal_texts(&candidates, |p| &collection.passages[p].text);
        }
        let is_asked = |&i: &usize| language.is_none_or(|l| collection.questions[i].language == l);
        let mut asked: Vec<usize> = (0..collection.questions.len()).filter(is_asked).collect();
        let mut merged: Vec<Vec<usize>> = asked.iter().map(|&q| vec![q]).collect();
        if family == Views::Mteb {
            let (kept, of) = merge_equal_texts(&asked, |q| &collection.questions[q].text);
            merged = kept.iter().map(|_| vec![]).collect();
            asked.iter().for_each(|q| merged[of[q]].push(*q));
            asked = kept;
        }
        let answers = |questions: &Vec<usize>| {
            let of = |q: &usize| collection.questions[*q].relevant.iter().filter_map(|p| places.get(p).copied());
            let mut answers: Vec<usize> = questions.iter().flat_map(of).collect();
            answers.sort_unstable();
            answers.dedup();
            answers
        };
        let found: Vec<(usize, Vec<usize>)> =
            asked.into_iter().zip(merged.iter().map(answers)).filter(|(_, answers)| !answers.is_empty()).collect();
        let (asked, relevant): (Vec<usize>, Vec<Vec<usize>>) = found.into_iter().unzip();
        if asked.is_empty() {
            return None;
        }
        let code = |l: usize| collection.languages[l].clone();
        let distractors = candidates.iter().filter(|&&p| collection.passages[p].distractor).count();
        let passages = match corpus {
            Corpus::Language(l) => code(l),
            Corpus::Harder(l) => format!("{} + {distractors}", code(l)),
            Corpus::All => "all".into(),
        };
        let to_english = match corpus {
            Corpus::Language(l) | Corpus::Harder(l) => {
                Some(l) == collection.english() && language.is_some_and(|q| q != l)
            }
            Corpus::All => false,
        };
        let questions = language.map_or("all".into(), code);
        Some(View { questions, passages, family, asked, candidates, relevant, to_english })
    }

    /// The paragraph of each question asked, for resampling.
    pub fn clusters(&self, collection: &Collection) -> Vec<usize> {
        self.asked.iter().map(|&q| collection.questions[q].cluster).collect()
    }
}

/// Leaves of equal texts the last, as a Python dict keyed by text does; and for each item, the place of the one left.
fn merge_equal_texts<'a>(items: &[usize], text: impl Fn(usize) -> &'a String) -> (Vec<usize>, HashMap<usize, usize>) {
    let mut last: HashMap<&str, usize> = HashMap::new();
    items.iter().for_each(|&i| _ = last.insert(text(i), i));
    let kept: Vec<usize> = items.iter().copied().filter(|&i| last[text(i).as_str()] == i).collect();
    let place: HashMap<usize, usize> = kept.iter().enumerate().map(|(place, &i)| (i, place)).collect();
    let of = items.iter().map(|&i| (i, place[&last[text(i).as_str()]])).collect();
    (kept, of)
}

/// A view scored in one way.
#[derive(Clone, Debug)]
pub struct Judged<'a> {
    /// Questions and candidates.
    pub view: &'a View,
    /// How the model was read; none for BM25.
    pub reading: Option<Reading>,
    /// What was done to its vectors.
    pub treatment: Treatment,
    /// Sentences were pooled inside their paragraphs.
    pub within: bool,
    /// Where the answers of the view's questions ended up.
    pub scores: Scores,
}

/// Scores views under every reading of `vectors` and every treatment; `device` takes the products. `maps` holds those of
/// [`Treatment::Procrustes`] and [`Treatment::Ridge`], one a reading; they apply to questions in other languages over English
/// passages.
pub fn judge<'a>(
    device: &Device,
    collection: &Collection,
    vectors: &Vectors,
    views: &'a [View],
    treatments: &[Treatment],
    maps: &HashMap<(Reading, Treatment), Map>,
) -> Result<Vec<Judged<'a>>, ScoreError> {
    let mut judged = vec![];
    for &treatment in treatments {
        if treatment == Treatment::Bm25 {
            judged.extend(by_words(collection, views)?);
            continue;
        }
        for (r, &reading) in vectors.readings.iter().enumerate() {
            let map = maps.get(&(reading, treatment));
            let is_map = matches!(treatment, Treatment::Procrustes | Treatment::Ridge);
            if is_map && map.is_none() {
                continue;
            }
            let questions = map.map_or_else(|| vectors.questions[r].clone(), |map| map.apply(&vectors.questions[r]));
            let sides = [(false, vectors.passages.get(r)), (true, vectors.within.get(r))];
            for (within, passages) in sides.into_iter().filter_map(|(within, p)| Some((within, p?))) {
                let sides = Sides::new(collection, &questions, passages, treatment);
                let asked: Vec<&View> = views.iter().filter(|view| !is_map || view.to_english).collect();
                for (&view, scores) in asked.iter().zip(sides.score_all(device, &asked)) {
                    judged.push(Judged { view, reading: Some(reading), treatment, within, scores: scores? });
                }
            }
        }
    }
    Ok(judged)
}

/// Both sides of a search, with the means that are subtracted from them.
struct Sides<'a> {
    questions: Side<'a>,
    passages: Side<'a>,
    treatment: Treatment,
}

/// Questions or passages.
struct Side<'a> {
    rows: &'a Embeddings,
    language: Vec<usize>,
    article: Vec<usize>,
    all: Means,
    of_article: HashMap<usize, Means>,
}

impl<'a> Sides<'a> {
    fn new(
        collection: &Collection,
        questions: &'a Embeddings,
        passages: &'a Embeddings,
        treatment: Treatment,
    ) -> Sides<'a> {
        let Collection { questions: asked, passages: texts, .. } = collection;
        let language = (asked.iter().map(|q| q.language).collect(), texts.iter().map(|p| p.language).collect());
        let article = (asked.iter().map(|q| q.article).collect(), texts.iter().map(|p| p.article).collect());
        Sides {
            questions: Side::new(questions, language.0, article.0, |_| true),
            // What only makes the search harder is centred as the others are, and changes no mean.
            passages: Side::new(passages, language.1, article.1, |i| !texts[i].distractor),
            treatment,
        }
    }

    /// Views one after the other on a GPU, whose ops take turns, and side by side on the CPU.
    fn score_all(&self, device: &Device, views: &[&View]) -> Vec<Result<Scores, ScoreError>> {
        match device {
            Device::Cpu => views.par_iter().map(|view| self.score(device, view)).collect(),
            Device::Cuda(_) => views.iter().map(|view| self.score(device, view)).collect(),
        }
    }

    fn score(&self, device: &Device, view: &View) -> Result<Scores, ScoreError> {
        let Sides { questions, passages, treatment } = self;
        let search = |asked: &[usize], relevant: &[Vec<usize>], without: Option<usize>| {
            let side = |side: &Side, rows: &[usize]| match treatment {
                Treatment::Centred | Treatment::CrossFitted => side.centred(rows, without),
                _ => side.rows.select(rows),
            };
            Scores::of(device, &side(questions, asked), &side(passages, &view.candidates), relevant)
        };
        if *treatment != Treatment::CrossFitted {
            return search(&view.asked, &view.relevant, None);
        }
        let mut of_article: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let article = |&q: &usize| questions.article[q];
        view.asked.iter().enumerate().for_each(|(i, q)| of_article.entry(article(q)).or_default().push(i));
        let mut rankings = vec![None; view.asked.len()];
        for (article, places) in of_article {
            let asked: Vec<usize> = places.iter().map(|&i| view.asked[i]).collect();
            let relevant: Vec<Vec<usize>> = places.iter().map(|&i| view.relevant[i].clone()).collect();
            let scores = search(&asked, &relevant, Some(article))?;
            places.into_iter().zip(scores.rankings).for_each(|(i, ranking)| rankings[i] = Some(ranking));
        }
        Ok(Scores { rankings: rankings.into_iter().flatten().collect(), candidates: view.candidates.len() })
    }
}

impl<'a> Side<'a> {
    fn new(
        rows: &'a Embeddings,
        language: Vec<usize>,
        article: Vec<usize>,
        counts: impl Fn(usize) -> bool,
    ) -> Side<'a> {
        let articles: HashSet<usize> = article.iter().copied().collect();
        let of = |a: usize| (a, Means::of(rows, &language, |i| counts(i) && article[i] == a));
        let of_article = articles.into_iter().map(of).collect();
        Side { all: Means::of(rows, &language, &counts), of_article, rows, language, article }
    }

    /// Some rows less their languages' means, which an article may be left out of.
    fn centred(&self, rows: &[usize], without: Option<usize>) -> Embeddings {
        let language: Vec<usize> = rows.iter().map(|&i| self.language[i]).collect();
        let rows = self.rows.select(rows);
        match without.and_then(|article| self.of_article.get(&article)) {
            Some(article) => rows.centred(&language, &self.all.without(article)),
            None => rows.centred(&language, &self.all),
        }
    }
}

fn by_words<'a>(collection: &Collection, views: &'a [View]) -> Result<Vec<Judged<'a>>, ScoreError> {
    let score = |view: &'a View| {
        let passages: Vec<&str> = view.candidates.iter().map(|&p| collection.passages[p].text.as_str()).collect();
        let questions: Vec<&str> = view.asked.iter().map(|&q| collection.questions[q].text.as_str()).collect();
        let similarity = bm25::Index::new(&passages).scores(&questions);
        let scores = Scores::from_similarity(&similarity, passages.len(), &view.relevant)?;
        Ok(Judged { view, reading: None, treatment: Treatment::Bm25, within: false, scores })
    };
    // Pooled over languages, words say the language and little else.
    views.iter().filter(|view| view.family != Views::Pooled).map(score).collect()
}
