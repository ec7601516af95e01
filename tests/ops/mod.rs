mod cosine;
mod infonce;
mod rmsnorm;
mod triplet;
