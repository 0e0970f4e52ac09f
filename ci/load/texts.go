package main

import "strings"

// quoted has ~ for the backquotes of Markdown, which Go's raw strings cannot have.
func quoted(text string) string { return strings.ReplaceAll(text, "~", "`") }

var head = quoted(`# Scale

<!-- Written by make load: do not edit. -->

~make load~ installs the templates as [the guide](../start/first-build-in-a-cluster.md) does, on a cluster of its own,
starts many WorkflowRuns at once, and writes this page; ~make load RUNS=10~ measures a part.

**What is real:** the API server and etcd, the scheduler, Argo's controller, OpenChoreo's manager, gateway and agent,
External Secrets, the claims and their volumes, and all objects, which are those of the templates. They share one
machine with the load itself, so its processors are soon the limit: a control plane of several machines does better.

**What is simulated:** the nodes, and what runs in pods. [kwok](https://kwok.sigs.k8s.io) plays 40 nodes of 32
processors; a pod there starts after a second, works as long as its step is given, and fails as often as it is told.
Argo's executor in those pods is played, too: the same three requests for each pod, with the outputs that a real run
gave. Not played are pulls of images, mounts, network policies, the steps' own requests to registries and to
OpenChoreo's API, and a kubelet's requests but for the pods' states. The runs are of a hundred components in turn, for
those of one component write its Workload one after the other. One run of each experiment from 10 on builds for real, on
the real node.

Figures are a median, with what 95 of 100 and all are within in brackets. Times are Kubernetes' own, which are whole
seconds.
`)

var settingsText = quoted(`
## Settings

Recommended for Argo's controller; with them the figures below were measured. **Where the last column says not
measured, they are a proposal only**, which no figure supports yet. Workers, qps and burst are flags of the Deployment
~workflow-controller~, the requeue time and ~GOMEMLIMIT~ are variables of it, and ~parallelism~ and
~namespaceParallelism~ are keys of the ConfigMap ~workflow-controller-configmap~:

`)

var settingsNotes = quoted(`
- **Requeue time.** Argo looks at a Workflow again after this time at the earliest, 10 s by default, and each step
  takes more than one look.
- **~GOMEMLIMIT~.** Argo's controller keeps all Workflows in memory until they are deleted. Without a limit Go takes
  twice what it needs; with one it collects garbage more often instead. It is below the container's limit of 512 MiB.
- **~parallelism~.** Runs above it wait as Workflows, without pods, claims and nodes.
- **~namespaceParallelism~.** It is below ~parallelism~, so that one namespace's burst leaves places for its
  neighbours. A label of a namespace, ~workflows.argoproj.io/parallelism-limit~, gives it a number of its own.
- **Priority.** The setting ~run-priorities~ says whose runs Argo takes first of those that wait, and ~priority-class~
  which pods the scheduler does.
- **Semaphores.** Where Argo works for others, too, ~run-semaphores~ holds builds alone to a number. It was not
  measured.
`)

var keepText = quoted(`
## What to keep

What a run leaves stays until ~ttl-after-completion~ has passed, 1 day by default. etcd refuses writes above its quota,
which is 2 GiB by default. Calculated of the KiB above, events left out, with the pods and without them, as by the
setting ~pod-gc~, which takes their logs, too:

`)

var experimentsText = quoted(`
## Runs

*In Argo's queue* is from the WorkflowRun's creation to the start of its Workflow: OpenChoreo's work, and the wait for
~parallelism~. *No step's work* is the time from start to end without what the steps were given to work, of simulated
runs that succeeded: what Argo, the scheduler, the volume and the start of pods cost. *Until OpenChoreo tells* is from
the Workflow's end to the WorkflowRun's condition; OpenChoreo looks every 20 seconds, and at a run that has waited long
in Argo's queue less often.
*The neighbour* is another OpenChoreo namespace, of which five runs begin, 5 s apart, when all others have been created.
OpenChoreo's manager works on one WorkflowRun after the other, so a neighbour of a thousand waits until it has made
their Workflows; in Argo's queue it does not wait for them.

`)

var realText = quoted(`
The runs on the real node, which they share with all that is measured:

`)

var controllersText = quoted(`
## Controllers

Memory is resident, CPU is user and system time. ~manager~ and ~cluster-agent~ are OpenChoreo's. Requests go to the
API server, as a controller counts them itself, and are means of five seconds. The queue has Workflows, or WorkflowRuns,
that wait to be looked at.

`)

var deathText = quoted(`
Argo's controller is killed with SIGKILL when half of the runs have ended. It is *back* when it tells its metrics again,
and *steady* when its queue is as short as before:

`)

var costsText = quoted(`
## What a run costs

Requests are all that the API server answered but watches, without those of the program that measures. What etcd holds
was counted when all runs had ended, and again when they were deleted, as ~ttl-after-completion~ does. What the cluster
does all the time is in it, such as the states of nodes and leases: with few runs it is a large part of each.

OpenChoreo renders a run once. ~TestCostOfOurClusterWorkflows~ holds its expressions to 4,000 of the 2,000,000 units of
CEL that OpenChoreo allows from 1.2.4 on (~celCostLimit~), and to a quarter of them with 250 build arguments, variables
and labels each and 60 secrets of 50 keys.

`)
