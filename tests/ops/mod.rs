mod rmsnorm;
