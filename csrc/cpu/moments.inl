// Means and squared deviations, added up from sets that were summed apart, in double.

struct Sums {
  double first = 0, second = 0;
};

struct Moments {
  double count = 0, mean = 0, squares = 0;  // squares: sum of squared distances to the mean
};

// Chan, Golub and LeVeque 1983: the moments of two sets together.
inline Moments combined(const Moments& a, const Moments& b) {
  const double count = a.count + b.count, delta = b.mean - a.mean, share = b.count / count;
  return {count, a.mean + delta * share, a.squares + b.squares + delta * a.count * delta * share};
}

// From sums of distances to a pivot near the mean, and of their squares: of the values themselves,
// they would cancel where the mean is large beside the deviation.
inline Moments moments_around(double pivot, double count, const Sums& sums) {
  const double squares = sums.second - sums.first * sums.first / count;
  // Rounding may leave less than nothing of equal values; NaN stays.
  return {count, pivot + sums.first / count, squares < 0 ? 0 : squares};
}
