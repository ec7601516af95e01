mod doctor;
mod embed;
mod errors;
mod gpu;
mod quantize;
mod random;
mod round_trip;
mod smollm2;
