// Command etcd is the upstream etcd server, here so that the module's go.sum
// pins it together with the programs that talk to it.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
