package tabular

import _ "embed"

//go:embed iris.csv
var iris []byte

// Iris is the iris data set as CSV: 150 flowers, four lengths in centimetres
// each, 50 of each species, with the header
// sepal_length,sepal_width,petal_length,petal_width,species. The slice is the
// caller's.
//
// The measurements are Edgar Anderson's, published in R. A. Fisher, "The use of
// multiple measurements in taxonomic problems", Annals of Eugenics 7 (1936),
// 179-188. Rows 35 and 38 are as in that paper; the copy of the UCI repository
// has a slip in each.
func Iris() []byte { return append([]byte(nil), iris...) }
