// The browser that the tests of the picture of a run look at it by. A module of its own: the project needs no chromedp.
module github.com/stepwright/stepwright/ci/picture/browser

go 1.26.8

require (
	github.com/chromedp/cdproto v0.159.0
	github.com/chromedp/chromedp v0.23.0
)

require github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
