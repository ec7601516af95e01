mod page;
mod plot;
mod table;
