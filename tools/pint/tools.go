//go:build tools

package pint

import _ "github.com/cloudflare/pint/cmd/pint"
