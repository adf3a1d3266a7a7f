package tabular

import (
	"math"
	"math/rand/v2"
)

// split divides the rows of a table into those to train on and those held out,
// each class in the same proportion: of n rows of a class, n×fraction rounded
// are held out, but at least 1 (unless the fraction is 0) and at most n−1. The
// same table, fraction and seed always give the same split.
func split(t *table, fraction float64, seed uint64) (train, test []int32) {
	byClass := make([][]int32, len(t.classes))
	for i, l := range t.labels {
		byClass[l] = append(byClass[l], int32(i))
	}
	for class, rows := range byClass {
		rng := rand.New(rand.NewPCG(seed, uint64(class)))
		rng.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
		held := 0
		if fraction > 0 {
			held = int(math.Round(float64(len(rows)) * fraction))
			held = min(max(held, 1), len(rows)-1)
		}
		test = append(test, rows[:held]...)
		train = append(train, rows[held:]...)
	}
	return train, test
}

// standardise gives each numeric feature the mean 0 and the variance 1 over the
// given rows (the variance of all of them: divided by n), and applies that to
// every row. A feature that is constant there becomes 0 there.
func (t *table) standardise(rows []int32) {
	n := float64(len(rows))
	for j := range t.numeric {
		f := &t.features[j]
		// Relative to the largest one, so that squares stay in range.
		largest := 0.0
		for _, i := range rows {
			largest = max(largest, math.Abs(t.numbers[int(i)*t.numeric+j]))
		}
		f.Mean, f.Scale = 0, 1
		if largest > 0 {
			var mean, variance float64
			for _, i := range rows {
				mean += t.numbers[int(i)*t.numeric+j] / largest / n
			}
			for _, i := range rows {
				d := t.numbers[int(i)*t.numeric+j]/largest - mean
				variance += d * d / n
			}
			f.Mean = mean * largest
			// Below this, all that differs is rounding.
			if deviation := math.Sqrt(variance); deviation > 1e-14*math.Sqrt(n) {
				f.Scale = deviation * largest
			}
		}
		for i := range t.rows {
			v := &t.numbers[i*t.numeric+j]
			*v = f.standardise(*v)
		}
	}
}
