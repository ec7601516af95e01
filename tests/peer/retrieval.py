"""Golden values of retrieval metrics: MTEB's XQuADRetrieval construction, and pytrec_eval on its runs.

    venv/bin/pip install pytrec-eval-terrier==0.5.11 numpy safetensors
    venv/bin/python tests/peer/retrieval.py tests/golden/retrieval

Writes PREFIX.en.json (a small SQuAD file in which two questions and two paragraphs occur twice), PREFIX.safetensors (unit rows, one a
question and one a paragraph in the order of the file; equal texts have equal rows) and PREFIX.json (means by metric: `mteb` with
equal texts merged as mteb/tasks/retrieval/multilingual/XQuADRetrieval.py does, `pooled` with several relevant paragraphs a question).
"""
import hashlib
import json
import sys

import numpy as np
import pytrec_eval
from safetensors.numpy import save_file

MEASURES = {"ndcg_cut_10": "nDCG@10", "map": "mAP", "recall_5": "recall@5", "recall_10": "recall@10", "success_1": "accuracy@1"}


def squad(paragraphs=18, questions=4):
    """Paragraphs 3 and 11 have one text; question 0 of paragraphs 2 and 9 is one string, as is that of 5 and 5's last."""
    data = []
    for p in range(paragraphs):
        context = f"paragraph {3 if p == 11 else p}"
        texts = [f"question {p}.{q}" for q in range(questions)]
        if p == 9:
            texts[0] = "question 2.0"
        if p == 5:
            texts[-1] = texts[0]
        qas = [{"id": f"{p}-{q}", "question": text, "answers": [{"text": "paragraph", "answer_start": 0}]} for q, text in enumerate(texts)]
        data.append({"title": f"article {p // 3}", "paragraphs": [{"context": context, "qas": qas}]})
    return {"version": "1.1", "data": data}


def rows(file, rng, width=12):
    """A question lies near its paragraph, but not always nearest."""
    vectors = {}

    def draw(text, mean):
        if text not in vectors:
            vector = mean + rng.normal(size=width)
            vectors[text] = (vector / np.linalg.norm(vector)).astype(np.float32)
        return vectors[text]

    paragraphs, questions = [], []
    for article in file["data"]:
        for paragraph in article["paragraphs"]:
            paragraphs.append(draw(paragraph["context"], np.zeros(width)))
            questions += [draw(qa["question"], 1.5 * paragraphs[-1]) for qa in paragraph["qas"]]
    return np.stack(questions), np.stack(paragraphs)


def run(queries, corpus):
    """{query: {document: cosine}} from {id: vector} on both sides."""
    cosine = lambda a, b: float(np.dot(a.astype(np.float64), b.astype(np.float64)))
    return {q: {d: cosine(v, w) for d, w in corpus.items()} for q, v in queries.items()}


def evaluate(qrels, scores):
    per_query = pytrec_eval.RelevanceEvaluator(qrels, set(MEASURES)).evaluate(scores)
    means = {name: float(np.mean([r[measure] for r in per_query.values()])) for measure, name in MEASURES.items()}
    # MRR@10: trec_eval's reciprocal rank has no limit, so the run is cut.
    first = {q: dict(sorted(d.items(), key=lambda item: -item[1])[:10]) for q, d in scores.items()}
    cut = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(first)
    means["MRR@10"] = float(np.mean([cut[q]["recip_rank"] for q in scores]))
    means["queries"] = len(scores)
    return means


def mteb(file, question_rows, paragraph_rows):
    contexts, questions, pairs = {}, {}, []
    numbers = iter(range(len(question_rows)))
    vectors = {}
    paragraph_number = 0
    for article in file["data"]:
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            contexts[context] = hashlib.sha256(context.encode()).hexdigest()
            vectors[contexts[context]] = paragraph_rows[paragraph_number]
            paragraph_number += 1
            for qa in paragraph["qas"]:
                questions[qa["question"]] = qa["id"]  # the last id of equal strings stays
                vectors[qa["id"]] = question_rows[next(numbers)]
                pairs.append((qa["question"], context))
    qrels = {}
    for question, context in pairs:
        qrels.setdefault(questions[question], {})[contexts[context]] = 1
    queries = {i: vectors[i] for i in questions.values()}
    return evaluate(qrels, run(queries, {i: vectors[i] for i in contexts.values()}))


def pooled(question_rows, paragraph_rows):
    """Question q is answered by paragraphs q % P, (q + 5) % P and (q + 7) % P."""
    # Equal rows would tie, and trec_eval orders ties by name: only one of the two is kept.
    kept = [p for p in range(len(paragraph_rows)) if p != 11]
    corpus = {f"d{p}": paragraph_rows[p] for p in kept}
    queries = {f"q{q}": v for q, v in enumerate(question_rows)}
    relevant = lambda q: [kept[(q + step) % len(kept)] for step in (0, 5, 7)]
    qrels = {f"q{q}": {f"d{p}": 1 for p in relevant(q)} for q in range(len(question_rows))}
    return evaluate(qrels, run(queries, corpus))


def main(prefix):
    rng = np.random.default_rng(6)
    file = squad()
    questions, paragraphs = rows(file, rng)
    with open(prefix + ".en.json", "w") as out:
        json.dump(file, out)
    save_file({"questions": questions, "paragraphs": paragraphs}, prefix + ".safetensors")
    golden = {"mteb": mteb(file, questions, paragraphs), "pooled": pooled(questions, paragraphs)}
    with open(prefix + ".json", "w") as out:
        json.dump(golden, out, indent=1)
        out.write("\n")


main(sys.argv[1])
