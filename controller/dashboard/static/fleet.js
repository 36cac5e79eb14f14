// The fleet page: fresh whenever a job or a pod changes.

import { follow } from "./live.js";

follow("jobs,pods");
